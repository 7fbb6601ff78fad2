"""The oracle: scans everything, and so is right by construction. For tests and for measuring recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.shard.generation import Ranked, best_by_document
from app.shard.index import Mask


class ExactIndex:
    """See app.shard.index.VectorIndex. Not safe for threads."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._rows: dict[int, tuple[int, NDArray[np.float32]]] = {}

    def publish(
        self, labels: Sequence[int], docs: Sequence[int], vectors: NDArray[np.float32], removed: Sequence[int]
    ) -> None:
        """See VectorIndex."""
        for label, doc, vector in zip(labels, docs, vectors, strict=True):
            self._rows[label] = (doc, vector.copy())
        for label in removed:
            del self._rows[label]

    def search(self, query: NDArray[np.float32], k: int, allowed: Mask | None = None) -> list[Ranked]:
        """See VectorIndex."""
        rows = [
            (label, doc, vector)
            for label, (doc, vector) in self._rows.items()
            if allowed is None or allowed[min(doc, len(allowed) - 1)]
        ]
        if not rows:
            return []
        labels, docs = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
        scores = np.stack([row[2] for row in rows]) @ query
        return best_by_document(labels, docs, scores, k)
