"""What a query sees: one immutable state of a shard's index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document found by its best chunk. score: inner product of unit vectors, -1 to 1."""

    doc: int
    label: int
    score: float


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of each label, by `label - base`. Shared between generations, and only ever added to.

    doc: the document's row. died: the sequence of the generation from which on the label is no longer there.
    in_graph: whether the graph holds it (only the absorber reads and writes this). vectors: shape (n, dim), for
    exact scans of what a filter allows: hnswlib hands vectors out as lists, 30 µs each.
    """

    base: int
    doc: NDArray[np.int64]
    died: NDArray[np.int64]
    in_graph: NDArray[np.bool_]
    vectors: NDArray[np.float16]

    @classmethod
    def empty(cls, base: int, capacity: int, dim: int) -> Labels:
        """Room for `capacity` labels from `base` on, none of which has died."""
        return cls(
            base,
            doc=np.full(capacity, -1, np.int64),
            died=np.full(capacity, NEVER, np.int64),
            in_graph=np.zeros(capacity, np.bool_),
            vectors=np.empty((capacity, dim), np.float16),
        )

    def grown(self, label: int) -> Labels:
        """With room for `label`: itself, or a copy of twice the size. Older generations keep the older arrays."""
        capacity = len(self.doc)
        if label - self.base < capacity:
            return self
        bigger = Labels.empty(self.base, max(2 * capacity, label - self.base + 1), self.vectors.shape[1])
        bigger.doc[:capacity] = self.doc
        bigger.died[:capacity] = self.died
        bigger.in_graph[:capacity] = self.in_graph
        bigger.vectors[:capacity] = self.vectors
        return bigger


@dataclass(frozen=True, slots=True)
class Generation:
    """buffer: shape (n, dim), float32, the chunks not yet in the graph; buffer_labels: shape (n,).

    end: every label of this generation is below it.
    """

    sequence: int
    end: int
    labels: Labels
    buffer: NDArray[np.float32]
    buffer_labels: NDArray[np.int64]
    chunks: int

    def alive(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the labels are there in this generation."""
        return self.labels.died[labels - self.labels.base] > self.sequence

    def docs(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The document of each label."""
        return self.labels.doc[labels - self.labels.base]


def best_by_document(
    labels: NDArray[np.int64], docs: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> list[Ranked]:
    """The k best documents by their best chunk, best first; equal scores by label. Labels may come twice."""
    found: dict[int, Ranked] = {}
    for at in np.lexsort((labels, -scores)):
        doc = int(docs[at])
        if doc not in found:
            found[doc] = Ranked(doc, int(labels[at]), float(scores[at]))
            if len(found) == k:
                break
    return list(found.values())
