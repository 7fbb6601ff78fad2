"""A graph built anew from what is alive, beside the present one, and swapped in: dead points cost time and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.crash import crash_point
from app.shard.generation import NEVER, Generation, Rows
from app.shard.graph import FIRST_CAPACITY, Graph
from app.shard.index import HnswIndex

_BLOCK_ROWS = 32  # between two looks at the clock
_COPY_ROWS = 8192
# What has come meanwhile and fits into the buffer needs no further round
_LEFT_ROWS = 512
_SHRINKS = 0.7  # a round that leaves more than this share of the one before: stop the absorber for the last one


class Rebuild:
    """One rebuild. `run` takes as long as it takes; `progress` and `stop` are for other threads.

    cpu_share: of one core, while the bulk is built; what came meanwhile is then added at full speed. still_seen:
    sequence of the oldest generation that anybody looks at; rows that died after it are kept.
    """

    def __init__(self, index: HnswIndex, cpu_share: float, still_seen: Callable[[], int] | None = None) -> None:
        self._index = index
        self._still_seen = still_seen or (lambda: index.generation.sequence)
        self._pause = 1.0 / cpu_share - 1.0
        self._stop = threading.Event()
        first = index.generation
        self._dim = first.buffer.shape[1]
        self._rows = Rows.empty(max(_COPY_ROWS, first.chunks), self._dim, first.rows.vectors.dtype)
        self._graph: Graph = index.make_graph(max(FIRST_CAPACITY, 2 * first.chunks))
        self._origins = np.empty(0, np.int64)  # the present row of each new row
        self._taken = 0  # present rows looked at
        self._linked = 0  # new rows that are in the graph, or had died before

    @property
    def progress(self) -> float:
        """0 to 1; it goes back a little where much has come meanwhile."""
        return self._linked / len(self._origins) if len(self._origins) else 0.0

    def stop(self) -> None:
        """Give up; `run` returns soon."""
        self._stop.set()

    def run(self) -> bool:
        """Build, catch up, swap. Returns whether it came to that. One thread; the absorber goes on beside it."""
        left = self._round()
        self._pause = 0.0
        while not self._stop.is_set() and left > _LEFT_ROWS:
            before, left = left, self._round()
            if left > before * _SHRINKS:
                break
        if self._stop.is_set():
            return False
        with self._index.changing:  # from here on the buffer grows, and who publishes waits for room
            self._round()
            if self._stop.is_set():
                return False
            crash_point("index.rebuilt")
            self._index.swap(self._finish)
        return True

    def _round(self) -> int:
        """Take over what is new and add it to the graph; returns how much has come meanwhile."""
        self._take(self._index.generation)
        while self._linked < len(self._origins) and not self._stop.is_set():
            began = time.perf_counter()
            self._link(self._linked + _BLOCK_ROWS)
            if self._pause:
                self._stop.wait((time.perf_counter() - began) * self._pause)
        return self._index.generation.end - self._taken

    def _take(self, generation: Generation) -> None:
        """Copy the rows that are there and were not looked at yet."""
        source = generation.rows
        seen = min(generation.sequence, self._still_seen())
        alive = np.flatnonzero(source.died[self._taken : generation.end] > seen) + self._taken
        start, end = len(self._origins), len(self._origins) + len(alive)
        self._rows = rows = self._rows.grown(start, end)
        rows.label[start:end] = source.label[alive]
        rows.doc[start:end] = source.doc[alive]
        for at in range(0, len(alive), _COPY_ROWS):
            block = alive[at : at + _COPY_ROWS]
            rows.vectors[start + at : start + at + len(block)] = source.vectors[block]
        rows.columns.added(
            source.columns, self._taken, _numbered(alive - self._taken, start, generation.end - self._taken)
        )
        self._origins = np.concatenate((self._origins, alive))
        self._taken = generation.end

    def _link(self, stop: int) -> None:
        """Add new rows to the graph, but not those that have died since they were taken."""
        new = np.arange(self._linked, min(stop, len(self._origins)))
        living = new[self._index.generation.rows.died[self._origins[new]] == NEVER]
        rows = self._rows
        self._graph.add(rows.vectors[living].astype(np.float32), living)
        rows.in_graph[living] = True
        self._linked += len(new)

    def _finish(self, generation: Generation) -> tuple[Rows, int, int, Graph]:
        self._take(generation)
        rows, end = self._rows, len(self._origins)
        rows.died[:end] = generation.rows.died[self._origins]
        self._graph.remove(np.flatnonzero(rows.in_graph[:end] & (rows.died[:end] != NEVER)).tolist())
        return rows, end, self._linked, self._graph


def _numbered(kept: NDArray[np.int64], first: int, size: int) -> NDArray[np.int32]:
    """By old position: `first` and following for those that are kept, -1 for the others."""
    numbers = np.full(size, -1, np.int32)
    numbers[kept] = np.arange(first, first + len(kept), dtype=np.int32)
    return numbers
