"""The index in memory: a write buffer searched exactly beside an HNSW graph that absorbs it in the background.

One writer publishes, one absorber moves rows, maintenance swaps a rebuilt graph in, any number of threads search. A
query reads its generation while it holds the shared side of that generation's graph; a row is marked deleted in a
graph only under the exclusive side and after the generation in which it died was published. So a query never misses
an old version without seeing the new one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.shard.generation import NEVER, Generation, Ranked, Rows
from app.shard.graph import Graph, Reached
from schemas.filters import Filter

# How long a change may hold up a query. While queries come, about two insertions at 100,000 points; else the cost
# of taking turns (waiting for the interpreter up to 0.5 ms beside a busy writer) is spread over more rows.
_HOLD_S = 0.0008
_IDLE_HOLD_S = 0.005
_IDLE_AFTER_S = 0.2
_MOST_SLICE_ROWS = 64
_QUIET_S = 1.0  # without new rows; then the graph takes what is left
# Times the rows from which the graph absorbs: then who publishes should wait, see `make_room`. Under full ingest the
# buffer is always that full, and scanning it is what queries wait for most: p99 3.6 ms with 1,000 rows, 7.5 with 4,000.
_FULL_BUFFERS = 2
# What a filter costs (measured, see docs/adr/0011): scanning one allowed row, and one more result of the graph
_EXACT_ROW_US = 0.85
_GRAPH_RESULT_US = 3.5
_OVERSAMPLING = 1.5  # what is allowed is spread unevenly among what is near
_FIRST_ROWS = 1024


class VectorIndex(Protocol):
    """Implemented by HnswIndex, and by ExactIndex, the oracle of its tests."""

    def publish(
        self,
        labels: Sequence[int],
        docs: Sequence[int],
        vectors: NDArray[np.float32],
        removed: Sequence[int],
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Add chunks and remove others in one step that a query sees wholly or not at all. One thread at a time.

        labels: ascending, above all given before. vectors: shape (len(labels), dim), unit length. metadata: by
        chunk, None if none has any.
        """
        ...

    def search(self, query: NDArray[np.float32], k: int, parsed: Filter | None = None) -> list[Ranked]:
        """The best k documents, best first, fewer only if there are not so many; any thread.

        query: shape (dim,), unit length. parsed: what their metadata must match.
        """
        ...


class HnswIndex:
    """See VectorIndex.

    make_graph: an empty graph with room for so many points. limit: the graph absorbs the buffer from this many rows
    on. rows, end, graph: what was loaded; `in_graph` tells what the graph holds of it.
    """

    def __init__(
        self, make_graph: Callable[[int], Graph], limit: int, rows: Rows, end: int = 0, graph: Graph | None = None
    ) -> None:
        self.make_graph = make_graph
        self._limit = limit
        self._publishing = threading.Lock()
        # held by who adds to the present graph, copies it or replaces it; taken before `_publishing`
        self.changing = threading.Lock()
        self._room = threading.Condition()
        self._absorbed = 0
        # Rows to be marked deleted, each with the end of all rows when it died, ascending: not before the graph has
        # those, which may have the same vector (a change of metadata alone) and then need no point of their own.
        self._removals: deque[tuple[int, int]] = deque()
        self._row_s = 0.0004
        self._last_query = self._last_rows = 0.0
        absent = np.flatnonzero(~rows.in_graph[:end] & (rows.died[:end] == NEVER))
        start = int(absent[0]) if len(absent) else end
        self._matrix = rows.vectors[start:end].astype(np.float32)
        self._origin = start  # the row that the matrix begins with
        alive = int((rows.died[:end] == NEVER).sum())
        self._generation = Generation(0, rows, end, graph or make_graph(0), start, self._matrix, alive)

    @property
    def generation(self) -> Generation:
        """The present state."""
        return self._generation

    @property
    def buffered(self) -> int:
        """Rows of the write buffer."""
        return len(self._generation.buffer)

    @property
    def dead_ratio(self) -> float:
        """Share of the graph's points that are dead, whether marked yet or not."""
        graph = self._generation.graph
        return min(1.0, (graph.dead + len(self._removals)) / graph.count) if graph.count else 0.0

    def publish(
        self,
        labels: Sequence[int],
        docs: Sequence[int],
        vectors: NDArray[np.float32],
        removed: Sequence[int],
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """See VectorIndex."""
        with self._publishing:
            before = self._generation
            end = before.end + len(labels)
            rows = before.rows.grown(before.end, end)
            if labels:
                new = slice(before.end, end)
                rows.label[new], rows.doc[new], rows.vectors[new] = labels, docs, vectors
                rows.columns.add(range(before.end, end), metadata or [{}] * len(labels))
                self._append(before, vectors)
                self._last_rows = time.monotonic()
            if removed:
                gone = before.rows_of(np.asarray(removed, np.int64))
                rows.died[gone] = before.sequence + 1
                self._removals.extend((row, end) for row in gone.tolist())
            self._generation = replace(
                before,
                sequence=before.sequence + 1,
                rows=rows,
                end=end,
                buffer=self._buffer(before.start, end),
                chunks=before.chunks + len(labels) - len(removed),
            )

    def search(self, query: NDArray[np.float32], k: int, parsed: Filter | None = None) -> list[Ranked]:
        """See VectorIndex."""
        if parsed is not None:
            return self._search_matching(query, k, parsed)
        wanted = 2 * k + 8  # documents have several chunks, and some points may have died since
        while True:
            generation, reached = self._ask_graph(query, wanted)
            found = self._with_buffer(generation, query, k, reached)
            if len(found) >= k:
                return found
            living = generation.graph.living
            if wanted >= living:
                return found if reached.points >= living else generation.exact(query, k)  # some cannot be reached
            wanted *= 4

    def absorb(self) -> bool:
        """Do a slice of what the graph has to be told, if there is reason to; returns whether there was."""
        if not self.changing.acquire(blocking=False):
            return False
        try:
            quiet = time.monotonic() - self._last_rows > _QUIET_S
            generation = self._generation
            if len(generation.buffer) >= self._limit or (quiet and generation.chunks > self._limit):
                absorbed = self._absorb_slice()
            else:
                absorbed = False
            full = len(self._removals) >= _MOST_SLICE_ROWS
            # a buffer that is too small to be absorbed is not waited for
            return (self._remove_slice(wait=not quiet or absorbed) if quiet or full else False) or absorbed
        finally:
            self.changing.release()

    def make_room(self, rows: int, timeout_s: float) -> bool:
        """Wait while the buffer is full, until the graph has taken as many rows; whether it did in time.

        Called by who has published `rows`.
        """
        with self._room:
            wanted = self._absorbed + rows
            return self._room.wait_for(
                lambda: self.buffered < self._limit * _FULL_BUFFERS or self._absorbed >= wanted, timeout_s
            )

    def swap(self, prepare: Callable[[Generation], tuple[Rows, int, int, Graph]]) -> None:
        """Replace rows and graph by others of the same content. Called with `changing` held.

        prepare: from the present generation to rows, their number, the first row not in the graph, and the graph;
        nothing is published meanwhile.
        """
        with self._publishing:
            before = self._generation
            rows, end, start, graph = prepare(before)
            self._matrix, self._origin = rows.vectors[start:end].astype(np.float32), start
            self._removals.clear()
            self._generation = Generation(before.sequence, rows, end, graph, start, self._matrix, before.chunks)
        self._tell_room(before.end)

    def _append(self, before: Generation, vectors: NDArray[np.float32]) -> None:
        """Put rows at the end of the matrix that the buffer is a part of."""
        used = before.end - self._origin
        if used + len(vectors) > len(self._matrix):
            kept = before.buffer
            matrix = np.empty((max(_FIRST_ROWS, 2 * (len(kept) + len(vectors))), kept.shape[1]), np.float32)
            matrix[: len(kept)] = kept
            self._matrix, self._origin, used = matrix, before.start, len(kept)
        self._matrix[used : used + len(vectors)] = vectors

    def _buffer(self, start: int, end: int) -> NDArray[np.float32]:
        return self._matrix[start - self._origin : end - self._origin]

    def _ask_graph(self, query: NDArray[np.float32], wanted: int) -> tuple[Generation, Reached]:
        self._last_query = time.monotonic()
        while True:
            graph = self._generation.graph
            graph.lock.enter()
            try:
                generation = self._generation
                if generation.graph is graph:
                    return generation, graph.search(query, wanted)
            finally:
                graph.lock.leave()

    def _with_buffer(
        self,
        generation: Generation,
        query: NDArray[np.float32],
        k: int,
        reached: Reached,
        mask: NDArray[np.bool_] | None = None,
    ) -> list[Ranked]:
        """What the graph found and what the buffer holds. mask: which rows are allowed, None for all."""
        found, scores, _ = reached
        if mask is not None:
            fits = mask[found]
            found, scores = found[fits], scores[fits]
        if len(generation.buffer):
            living = generation.rows.died[generation.start : generation.end] > generation.sequence
            if mask is not None:
                living &= mask[generation.start :]
            at = np.flatnonzero(living)
            found = np.concatenate((found, at + generation.start))
            scores = np.concatenate((scores, (generation.buffer @ query)[at]))
        return generation.best(found, scores, k)

    def _search_matching(self, query: NDArray[np.float32], k: int, parsed: Filter) -> list[Ranked]:
        """Whichever is cheaper: scan what is allowed, or ask the graph for so much more that k of it are."""
        generation = self._generation
        mask = generation.rows.columns.mask(parsed, generation.end)
        allowed = np.flatnonzero(generation.alive & mask)
        wanted = int((2 * k + 8) * _OVERSAMPLING * generation.chunks / max(1, len(allowed)))
        while _EXACT_ROW_US * len(allowed) > _GRAPH_RESULT_US * wanted:
            asked, reached = self._ask_graph(query, wanted)
            if asked.end != generation.end or asked.graph is not generation.graph:  # else its rows are the same
                mask = asked.rows.columns.mask(parsed, asked.end)
            found = self._with_buffer(asked, query, k, reached, mask)
            if len(found) >= k:
                return found
            wanted *= 4
        return generation.exact(query, k, allowed)

    def _remove_slice(self, *, wait: bool) -> bool:
        """wait: leave rows whose successors are not in the graph."""
        with self._publishing:
            generation = self._generation
            batch: list[int] = []
            while self._removals and len(batch) < _MOST_SLICE_ROWS:
                if wait and self._removals[0][1] > generation.start:
                    break
                batch.append(self._removals.popleft()[0])
            marked = [row for row in batch if generation.rows.in_graph[row]]
        if marked:
            with generation.graph.lock.exclusive():
                generation.graph.remove(marked)
        return bool(batch)

    def _absorb_slice(self) -> bool:
        generation = self._generation
        rows, graph = generation.rows, generation.graph
        stop = min(generation.start + self._slice_rows(), generation.end)
        if stop == generation.start:
            return False
        taken = np.arange(generation.start, stop)
        taken = taken[(rows.died[taken] > generation.sequence) & ~rows.in_graph[taken]]
        with graph.lock.exclusive():
            began = time.perf_counter()
            graph.add(generation.buffer[taken - generation.start], taken)
            spent_s = time.perf_counter() - began
        if len(taken):
            self._row_s += 0.1 * (spent_s / len(taken) - self._row_s)
        with self._publishing:
            current = self._generation
            current.rows.in_graph[taken] = True
            # what died while it was being added was not yet known to be in the graph when its removal was looked at
            died = taken[current.rows.died[taken] <= current.sequence].tolist()
            known = {row for row, _ in self._removals} if died else set()
            self._removals.extend((row, current.end) for row in died if row not in known)
            self._generation = current.moved(stop, self._buffer(stop, current.end))
        self._tell_room(stop - generation.start)
        return True

    def _slice_rows(self) -> int:
        idle = time.monotonic() - self._last_query > _IDLE_AFTER_S
        return max(1, min(_MOST_SLICE_ROWS, int((_IDLE_HOLD_S if idle else _HOLD_S) / self._row_s)))

    def _tell_room(self, rows: int) -> None:
        with self._room:
            self._absorbed += rows
            self._room.notify_all()
