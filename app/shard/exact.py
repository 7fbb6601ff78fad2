"""The oracle: scans everything, and so is right by construction. For the tests of VectorIndex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.shard.columns import matches
from app.shard.generation import Ranked
from schemas.filters import Filter


class ExactIndex:
    """See app.shard.index.VectorIndex. Not safe for threads."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, NDArray[np.float32], dict[str, Any]]] = {}

    def publish(
        self,
        labels: Sequence[int],
        docs: Sequence[int],
        vectors: NDArray[np.float32],
        removed: Sequence[int],
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """See VectorIndex."""
        for label, doc, vector, fields in zip(labels, docs, vectors, metadata or [{}] * len(labels), strict=True):
            self._rows[label] = (doc, vector.copy(), fields)
        for label in removed:
            del self._rows[label]

    def search(self, query: NDArray[np.float32], k: int, parsed: Filter | None = None) -> list[Ranked]:
        """See VectorIndex."""
        chunks: dict[int, list[tuple[float, int]]] = {}
        for label, (doc, vector, fields) in self._rows.items():
            if parsed is None or matches(parsed, fields):
                chunks.setdefault(doc, []).append((-float(vector @ query), label))
        best = sorted((min(own), doc) for doc, own in chunks.items())
        return [Ranked(doc, label, -negative) for (negative, label), doc in best[:k]]
