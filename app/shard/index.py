"""The index in memory: a write buffer searched exactly beside an HNSW graph that absorbs it in the background.

One writer publishes, one absorber moves rows, any number of threads search. A query reads its generation while it
holds the graph's lock; a label is marked deleted in the graph only under that lock and after the generation in
which it died was published. So a query never misses an old version without seeing the new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.shard.generation import Generation, Labels, Ranked, best_by_document
from app.shard.graph import Graph

# rows per hold of the lock: a query beside it waits about 4 ms (8 rows), 14 ms with 32, 104 ms with 256
SLICE_ROWS = 8
# up to here gathering the allowed vectors and scanning them is faster than any walk through the graph
EXACT_ROWS = 10_000
_FIRST_ROWS = 1024
_LONGEST_YIELD_S = 0.02

Mask = NDArray[np.bool_]


class VectorIndex(Protocol):
    """Implemented by HnswIndex, and by ExactIndex, the oracle of its tests."""

    def publish(
        self, labels: Sequence[int], docs: Sequence[int], vectors: NDArray[np.float32], removed: Sequence[int]
    ) -> None:
        """Add chunks and remove others in one step that a query sees wholly or not at all. One thread at a time.

        labels: ascending, above all given before. vectors: shape (len(labels), dim), unit length.
        """
        ...

    def search(self, query: NDArray[np.float32], k: int, allowed: Mask | None = None) -> list[Ranked]:
        """The best k documents, best first; any thread.

        query: shape (dim,), unit length. allowed: by document row, which may be returned; its last entry is False.
        """
        ...


class HnswIndex:
    """See VectorIndex. first_label: labels below it are never given. rows: absorb the buffer from this size on."""

    def __init__(self, dim: int, graph: Graph, first_label: int, rows: int) -> None:
        self._dim = dim
        self._graph = graph
        self._rows = rows
        self._publishing = threading.Lock()
        self._queries_waiting = 0
        self._removals: list[int] = []
        self._matrix = np.empty((_FIRST_ROWS, dim), np.float32)
        self._matrix_labels = np.empty(_FIRST_ROWS, np.int64)
        self._start = 0
        self._end = 0
        labels = Labels.empty(first_label, _FIRST_ROWS, dim)
        self._generation = Generation(0, first_label, labels, self._matrix[:0], self._matrix_labels[:0], 0)

    @property
    def chunks(self) -> int:
        """Chunks that can be found."""
        return self._generation.chunks

    @property
    def buffered(self) -> int:
        """Rows of the write buffer."""
        return len(self._generation.buffer_labels)

    @property
    def graph_dead_ratio(self) -> float:
        """Share of the graph's points that are marked deleted."""
        return self._graph.dead / self._graph.count if self._graph.count else 0.0

    def publish(
        self, labels: Sequence[int], docs: Sequence[int], vectors: NDArray[np.float32], removed: Sequence[int]
    ) -> None:
        """See VectorIndex."""
        with self._publishing:
            before = self._generation
            sequence = before.sequence + 1
            table = before.labels.grown(max(labels)) if labels else before.labels
            self._append(np.asarray(labels, np.int64), vectors)
            if labels:
                rows = np.asarray(labels) - table.base
                table.doc[rows] = docs
                table.vectors[rows] = vectors
            if removed:
                table.died[np.asarray(removed) - table.base] = sequence
            self._removals.extend(removed)
            self._generation = Generation(
                sequence,
                max(labels) + 1 if labels else before.end,
                table,
                self._matrix[self._start : self._end],
                self._matrix_labels[self._start : self._end],
                before.chunks + len(labels) - len(removed),
            )

    def search(self, query: NDArray[np.float32], k: int, allowed: Mask | None = None) -> list[Ranked]:
        """See VectorIndex."""
        if allowed is not None:
            return self._search_allowed(query, k, allowed)
        wanted = 2 * k + 8  # documents have several chunks, and some points may have died since
        while True:
            generation, labels, scores, exhausted = self._search_graph(query, wanted)
            living = generation.alive(labels)
            found = self._with_buffer(generation, query, k, labels[living], scores[living])
            if len(found) >= k or exhausted:
                return found
            wanted *= 4

    def absorb(self, *, pressed: bool) -> bool:
        """Move a slice of the buffer into the graph, if there is reason to; returns whether it did.

        pressed: whether new records are waiting. They go first until the buffer is four times its size: a scan of
        16,000 rows takes 1 ms, so freshness is worth it.
        """
        limit = self._rows * 4 if pressed else self._rows
        if self.buffered < limit and len(self._removals) < SLICE_ROWS:
            return False
        self._let_queries_pass()
        self._remove_slice()
        if self.buffered >= limit:
            self._absorb_slice()
        return True

    def _append(self, labels: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        count = len(labels)
        if self._end + count > len(self._matrix_labels):
            kept = slice(self._start, self._end)
            used = self._end - self._start
            size = max(_FIRST_ROWS, 2 * (used + count))
            matrix, matrix_labels = np.empty((size, self._dim), np.float32), np.empty(size, np.int64)
            matrix[:used], matrix_labels[:used] = self._matrix[kept], self._matrix_labels[kept]
            self._matrix, self._matrix_labels, self._start, self._end = matrix, matrix_labels, 0, used
        self._matrix[self._end : self._end + count] = vectors
        self._matrix_labels[self._end : self._end + count] = labels
        self._end += count

    def _search_graph(
        self, query: NDArray[np.float32], wanted: int
    ) -> tuple[Generation, NDArray[np.int64], NDArray[np.float32], bool]:
        self._queries_waiting += 1
        try:
            with self._graph.lock:
                generation = self._generation
                labels, scores = self._graph.search(query, wanted)
                return generation, labels, scores, wanted >= self._graph.living
        finally:
            self._queries_waiting -= 1

    def _with_buffer(
        self,
        generation: Generation,
        query: NDArray[np.float32],
        k: int,
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> list[Ranked]:
        living = np.flatnonzero(generation.alive(generation.buffer_labels))
        buffer_scores = (generation.buffer @ query)[living]
        buffer_labels = generation.buffer_labels[living]
        wanted = 2 * k + 8
        while True:
            top = _top(buffer_scores, wanted)
            all_labels = np.concatenate((labels, buffer_labels[top]))
            all_scores = np.concatenate((scores, buffer_scores[top]))
            found = best_by_document(all_labels, generation.docs(all_labels), all_scores, k)
            if len(found) >= k or len(top) == len(buffer_scores):
                return found
            wanted *= 4

    def _search_allowed(self, query: NDArray[np.float32], k: int, allowed: Mask) -> list[Ranked]:
        """Few: exact over what is allowed. Many: the graph with oversampling, exact if that finds too few."""
        generation = self._generation
        labels = _allowed_labels(generation, allowed)
        if len(labels) <= EXACT_ROWS:
            return _exact(generation, query, k, labels)
        wanted = int((2 * k + 8) * 2 * generation.chunks / len(labels))
        generation, graph_labels, graph_scores, _ = self._search_graph(query, wanted)
        fits = generation.alive(graph_labels) & _mask(generation, graph_labels, allowed)
        in_buffer = generation.alive(generation.buffer_labels) & _mask(generation, generation.buffer_labels, allowed)
        found_labels = np.concatenate((graph_labels[fits], generation.buffer_labels[in_buffer]))
        scores = np.concatenate((graph_scores[fits], generation.buffer[in_buffer] @ query))
        found = best_by_document(found_labels, generation.docs(found_labels), scores, k)
        if len(found) >= k:
            return found
        return _exact(generation, query, k, _allowed_labels(generation, allowed))

    def _let_queries_pass(self) -> None:
        """The lock is not fair: without this a busy absorber would starve the queries."""
        deadline = time.monotonic() + _LONGEST_YIELD_S
        while self._queries_waiting and time.monotonic() < deadline:
            time.sleep(0.0002)

    def _remove_slice(self) -> None:
        with self._publishing:
            batch, self._removals = self._removals[:64], self._removals[64:]
            table = self._generation.labels
        marked = [label for label in batch if table.in_graph[label - table.base]]
        with self._graph.lock:
            self._graph.remove(marked)

    def _absorb_slice(self) -> None:
        with self._publishing:
            generation = self._generation
            labels = generation.buffer_labels[:SLICE_ROWS]
            vectors = generation.buffer[:SLICE_ROWS]
            living = generation.alive(labels)
        with self._graph.lock:
            self._graph.add(vectors[living], labels[living])
        with self._publishing:
            current = self._generation
            table = current.labels
            table.in_graph[labels[living] - table.base] = True
            # what died while it was being added was not yet known to be in the graph when its removal was looked at
            died = [int(label) for label in labels[living] if table.died[label - table.base] <= current.sequence]
            self._removals = died + [label for label in self._removals if label not in died]
            self._start += len(labels)
            self._generation = replace(
                current,
                buffer=self._matrix[self._start : self._end],
                buffer_labels=self._matrix_labels[self._start : self._end],
            )


def _top(scores: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.argpartition(scores, len(scores) - count)[-count:]


def _mask(generation: Generation, labels: NDArray[np.int64], allowed: Mask) -> Mask:
    """Whether the document of each label is allowed; what lies beyond the mask is not (its last entry is False)."""
    return np.asarray(allowed[np.minimum(generation.docs(labels), len(allowed) - 1)])


def _allowed_labels(generation: Generation, allowed: Mask) -> NDArray[np.int64]:
    table = generation.labels
    known = slice(0, generation.end - table.base)
    docs = table.doc[known]
    fits = (docs >= 0) & (table.died[known] > generation.sequence) & allowed[np.minimum(docs, len(allowed) - 1)]
    return np.flatnonzero(fits) + table.base


def _exact(generation: Generation, query: NDArray[np.float32], k: int, labels: NDArray[np.int64]) -> list[Ranked]:
    table = generation.labels
    scores = table.vectors[labels - table.base].astype(np.float32) @ query
    return best_by_document(labels, generation.docs(labels), scores, k)
