"""Rows with the very same vector share one point of a graph.

Boilerplate (a footer, a licence) makes hundreds of equal vectors, and points at distance 0 fill each other's link
lists until the rest of the graph can hardly be reached from them: with 200 copies of each of 25 vectors among 300
unique ones, M 16, only 0.3 to 0.6 of the unique ones were found by their own vector.
"""

from __future__ import annotations

from bisect import insort

import numpy as np
from numpy.typing import NDArray


class Copies:
    """Which rows stand behind a point. Guarded by the graph's lock, like the graph.

    Vectors are told apart by Python's 64-bit hash of their bytes.
    """

    def __init__(self) -> None:
        self._points: dict[int, int] = {}  # hash of a vector: the row by which the graph calls its point
        self._rows: dict[int, list[int]] = {}  # point: its living rows, ascending, where it is not just its own
        self._point_of: dict[int, int] = {}  # row that has no point of its own: the point
        self._dead: set[int] = set()

    @property
    def memory_bytes(self) -> int:
        """An estimate."""
        return 100 * len(self._points) + 200 * len(self._point_of) + 60 * len(self._dead)

    def join(self, row: int, vector: NDArray[np.float32]) -> bool:
        """Put a row behind the point of its vector; False where there is none, and then `row` becomes that point."""
        key = hash(vector.tobytes())
        point = self._points.get(key)
        if point is None or point in self._dead:
            self._points[key] = row
            return False
        insort(self._rows.setdefault(point, [point]), row)
        self._point_of[row] = point
        return True

    def leave(self, row: int) -> int | None:
        """A row is gone; returns the point that no row is left behind."""
        point = self._point_of.pop(row, row)
        rows = self._rows.get(point)
        if rows is not None:
            rows.remove(row)
            if rows:
                return None
            del self._rows[point]
        self._dead.add(point)
        return point

    def expand(
        self, points: NDArray[np.int64], scores: NDArray[np.float32], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
        """Each point by its rows, of one point at most `most`; and of how many points that is all."""
        if not self._rows:
            return points, scores, len(points)
        rows: list[int] = []
        counts: list[int] = []
        whole = 0
        for point in points.tolist():
            own = self._rows.get(point, (point,))
            whole += len(own) <= most
            rows += own[:most]
            counts.append(min(len(own), most))
        return np.array(rows, np.int64), np.repeat(scores, counts), whole
