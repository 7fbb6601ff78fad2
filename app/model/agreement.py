"""How well two runtimes of one model agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import Embedder

_NEIGHBOURS = 10


@dataclass(frozen=True, slots=True)
class Agreement:
    """cosine_min, cosine_mean: between the two vectors of each text.

    top10_overlap: share of the ten nearest neighbours of each text, among the others, that both find; 0 to 1. A cosine
    of .993 looks harmless and is an overlap of .87: judge by this one.
    """

    cosine_min: float
    cosine_mean: float
    top10_overlap: float


def agreement(a: Embedder, b: Embedder, texts: Sequence[str]) -> Agreement:
    """Embed `texts` (at least two; at least some hundred different ones for a meaningful overlap) with both, compare.

    Exact search: memory is len(texts) squared, 4 bytes each. Raises what `embed` raises.
    """
    if len(texts) < 2:
        raise ValueError("agreement needs at least two texts")
    vectors_a, vectors_b = a.embed(texts), b.embed(texts)
    cosines = np.einsum("ij,ij->i", vectors_a, vectors_b)
    pairs = zip(_neighbours(vectors_a), _neighbours(vectors_b), strict=True)
    overlaps = [len(np.intersect1d(row_a, row_b)) / len(row_a) for row_a, row_b in pairs]
    return Agreement(float(cosines.min()), float(cosines.mean()), float(np.mean(overlaps)))


def _neighbours(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    """Row indices of the nearest other rows, shape (n, min(10, n - 1)), in no order."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    count = min(_NEIGHBOURS, len(vectors) - 1)
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]
