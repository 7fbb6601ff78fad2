"""What a query sees: one immutable state of a shard's index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.shard.columns import Columns
from app.shard.graph import Graph

NEVER = np.iinfo(np.int64).max
MOST_OTHERS = 2  # further chunks of a document that an answer shows
_BLOCK_ROWS = 4096  # of float16 made float32 at once: 6 MB, which stays in the cache of most CPUs

Vectors = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document found by its best chunk. score: inner product of unit vectors, -1 to 1.

    others: label and score of further chunks of it that were found, best first.
    """

    doc: int
    label: int
    score: float
    others: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of each chunk, by row, labels ascending. Shared between generations, and only ever added to.

    doc: row of the document. died: the sequence of the generation from which on the chunk is no longer there.
    in_graph: whether the graph holds it (only who changes the graph reads and writes this). vectors: shape (n, dim),
    for exact scans and for building a graph anew: hnswlib hands vectors out as lists, 30 µs each.
    """

    label: NDArray[np.int64]
    doc: NDArray[np.int64]
    died: NDArray[np.int64]
    in_graph: NDArray[np.bool_]
    vectors: Vectors
    columns: Columns

    @classmethod
    def empty(cls, capacity: int, dim: int, dtype: Any, columns: Columns | None = None) -> Rows:
        """Room for `capacity` rows, none of which has died. dtype: of the vectors, float16 or float32."""
        return cls(
            label=np.full(capacity, NEVER, np.int64),
            doc=np.full(capacity, -1, np.int64),
            died=np.full(capacity, NEVER, np.int64),
            in_graph=np.zeros(capacity, np.bool_),
            vectors=np.empty((capacity, dim), dtype),
            columns=columns or Columns(),
        )

    @property
    def capacity(self) -> int:
        """Rows there is room for."""
        return len(self.label)

    def grown(self, used: int, wanted: int) -> Rows:
        """With room for `wanted` rows: itself, or a copy of twice the size. Older generations keep the older arrays."""
        if wanted <= self.capacity:
            return self
        bigger = Rows.empty(max(2 * self.capacity, wanted), self.vectors.shape[1], self.vectors.dtype, self.columns)
        for name in ("label", "doc", "died", "in_graph", "vectors"):
            getattr(bigger, name)[:used] = getattr(self, name)[:used]
        return bigger

    def memory_bytes(self, used: int) -> int:
        """Of the rows in use, without their metadata."""
        return int(used * (8 + 8 + 8 + 1 + self.vectors.shape[1] * self.vectors.dtype.itemsize))


@dataclass(frozen=True, slots=True)
class Generation:
    """One state of an index.

    end: rows below it belong to this generation. start: from this row on they are in the write buffer, those before
    are in the graph (or had died before the graph took them). buffer: shape (end - start, dim), float32.
    """

    sequence: int
    rows: Rows
    end: int
    graph: Graph
    start: int
    buffer: NDArray[np.float32]
    chunks: int

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows are there in this generation; shape (end,)."""
        return self.rows.died[: self.end] > self.sequence

    def rows_of(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each label, all of which must be known."""
        return np.searchsorted(self.rows.label[: self.end], labels)

    def best(self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> list[Ranked]:
        """The k best documents by their best chunk, best first; equal scores by label.

        rows: shape (n,); those that are not there in this generation are passed over, and one may come twice.
        """
        wanted = 2 * k + 8  # documents have several chunks
        while True:
            top = _top(scores, wanted)
            found = self._by_document(rows[top], scores[top], k)
            if len(found) >= k or wanted >= len(scores):
                return found
            wanted *= 4

    def _by_document(self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> list[Ranked]:
        # plain Python: for a few dozen chunks it is faster than numpy, whose every call costs 1 µs or more
        docs, died = self.rows.doc[rows].tolist(), self.rows.died[rows].tolist()
        chunks: dict[int, list[tuple[int, float]]] = {}
        last = -1
        for negative, row, doc, gone in sorted(zip((-scores).tolist(), rows.tolist(), docs, died, strict=True)):
            if gone <= self.sequence or row >= self.end or row == last:
                continue  # on its way from the buffer into the graph a row is in both
            last = row
            own = chunks.get(doc)
            if own is None:
                if len(chunks) < k:
                    chunks[doc] = [(row, -negative)]
            elif len(own) <= MOST_OTHERS and all(row != other for other, _ in own):
                own.append((row, -negative))
        label = self.rows.label
        return [
            Ranked(doc, int(label[own[0][0]]), own[0][1], tuple((int(label[row]), score) for row, score in own[1:]))
            for doc, own in chunks.items()
        ]

    def exact(self, query: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None = None) -> list[Ranked]:
        """The k best documents by scanning: all that is there, or some rows that are."""
        chosen = np.flatnonzero(self.alive) if rows is None else rows
        return self.best(chosen, self.scores(query[np.newaxis], chosen)[0], k)

    def scores(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inner products of queries, shape (n, dim), with rows; shape (n, len(rows))."""
        scores = np.empty((len(queries), len(rows)), np.float32)
        for at in range(0, len(rows), _BLOCK_ROWS):
            block = slice(at, at + _BLOCK_ROWS)
            scores[:, block] = queries @ self.rows.vectors[rows[block]].astype(np.float32).T
        return scores

    def moved(self, start: int, buffer: NDArray[np.float32]) -> Generation:
        """The same content, with the graph holding more of it."""
        return replace(self, start=start, buffer=buffer)


def _top(scores: NDArray[np.float32], count: int) -> NDArray[np.intp] | slice:
    if len(scores) <= count:
        return slice(None)
    top = np.argpartition(scores, len(scores) - count)[-count:]
    # of equal scores at the border those with the least labels must be among them
    border = scores[top].min()
    return np.flatnonzero(scores >= border) if (scores == border).sum() > 1 else top
