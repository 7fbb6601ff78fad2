"""One HNSW graph and the lock around it: hnswlib promises nothing for a query beside a change."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import hnswlib
import numpy as np
from numpy.typing import NDArray

from app.shard.copies import Copies
from app.shard.lock import GraphLock

# hnswlib's resize_index holds the interpreter: 4 ms to 262,144 points, 57 ms to twice as many. To begin with so
# many costs 14 MB; pages of points are touched only as they are added.
FIRST_CAPACITY = 262_144
_LINK_BYTES = 4
_POINT_BYTES = 8 + 40 + 8 + 4 + 2 + 60  # label, mutex, pointer, level, visited mark, entry of the label table


class Reached(NamedTuple):
    """What a search of a graph found: rows and their inner products, best first. points: how many of whose rows none is
    left out."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    points: int


_NOTHING = Reached(np.empty(0, np.int64), np.empty(0, np.float32), 0)


class Graph:
    """Maximum inner product over unit vectors.

    Points are called by the number of their row. `search` needs the shared side of the lock; every other method the
    exclusive one, or a graph that nobody searches yet. M, ef_construction, ef_search: see Malkov and Yashunin,
    arXiv:1603.09320.
    """

    def __init__(self, dim: int, m: int, ef_construction: int, ef_search: int, capacity: int = FIRST_CAPACITY) -> None:
        self.lock = GraphLock()
        self.ef_search = ef_search
        self._dim = dim
        self._m = m
        self._index = hnswlib.Index(space="ip", dim=dim)
        self._index.init_index(capacity, ef_construction=ef_construction, M=m)
        self._copies = Copies()
        self._set_up()
        self.count = 0  # points
        self.dead = 0  # of them
        self.changes = 0  # rows that came or went

    @classmethod
    def from_state(cls, state: dict[str, Any], ef_search: int) -> Graph:
        """As `state` returned it. Holds the interpreter: 0.1 s for 100,000 points."""
        graph = cls.__new__(cls)
        graph.lock = GraphLock()
        graph.ef_search = ef_search
        graph._dim, graph._m = state["dim"], state["M"]
        graph._index = hnswlib.Index(params=state)
        graph._copies = Copies()
        graph._set_up()
        graph.count = state["cur_element_count"]
        graph.dead = graph.changes = 0
        return graph

    def adopt(self, points: NDArray[np.int64], vectors: NDArray[np.float32], dead: int) -> None:
        """After `from_state`: which points are alive, with their vectors, and how many others were marked deleted."""
        for point, vector in zip(points.tolist(), vectors, strict=True):
            self._copies.join(point, vector)
        self.dead += dead

    @property
    def capacity(self) -> int:
        """Points there is room for."""
        return int(self._index.max_elements)

    @property
    def living(self) -> int:
        """Points that a query may return."""
        return self.count - self.dead

    @property
    def memory_bytes(self) -> int:
        """An estimate: vectors as float32, links of level 0 and (1/M of the points) above, and hnswlib's tables."""
        links = _LINK_BYTES * (2 * self._m + 1) + _LINK_BYTES * (self._m + 1) / (self._m - 1)
        points = self.count * (4 * self._dim + links + _POINT_BYTES)
        return int(points + self.capacity * 40 + self._copies.memory_bytes)

    def add(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Add rows that it does not hold yet: vectors of shape (n, dim). Those with a vector it has share its point."""
        self.changes += len(rows)
        new = [not self._copies.join(row, vector) for row, vector in zip(rows.tolist(), vectors, strict=True)]
        rows, vectors = rows[new], vectors[new]
        if not len(rows):
            return  # hnswlib refuses none
        if self.count + len(rows) > self.capacity:
            self._index.resize_index(max(self.capacity * 2, self.count + len(rows)))
        self._index.add_items(vectors, rows, num_threads=1)
        self.count += len(rows)

    def remove(self, rows: list[int]) -> None:
        """Rows are gone, each once in its life; a point that has none left is marked deleted."""
        self.changes += len(rows)
        for row in rows:
            point = self._copies.leave(row)
            if point is not None:
                self._index.mark_deleted(point)
                self.dead += 1

    def search(self, query: NDArray[np.float32], k: int) -> Reached:
        """The rows of up to k points. Fewer if points cannot be reached."""
        most = k
        k = min(k, self.living)
        while k > 0:
            try:
                rows, distances = self._index.knn_query(query, k=k, num_threads=1)
            except RuntimeError:
                k //= 2  # hnswlib gives no partial result when it reaches fewer than k living points
            else:
                return Reached(*self._copies.expand(rows[0].astype(np.int64), 1.0 - distances[0], most))
        return _NOTHING

    def state(self) -> tuple[dict[str, Any], float]:
        """A copy of everything, and how long that held the interpreter in seconds.

        0.1 s for 100,000 points, but 1.9 s for 400,000 (bench/results/shard-400k.md).
        """
        started = time.perf_counter()
        (state,) = self._index.__getstate__()
        return state, time.perf_counter() - started

    def set_ef(self, ef_search: int) -> None:
        """From the next search on. For more results than that hnswlib takes their number instead."""
        self.ef_search = ef_search
        self._index.set_ef(ef_search)

    def _set_up(self) -> None:
        self._index.set_num_threads(1)
        self.set_ef(self.ef_search)
