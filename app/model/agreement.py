"""How well two runtimes of one model agree, and whether that is enough."""

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

    def __str__(self) -> str:
        return f"top-10 overlap {self.top10_overlap:.3f}, cosine at least {self.cosine_min:.5f}"


@dataclass(frozen=True, slots=True)
class Limits:
    """The least agreement with which a runtime may take the place of the reference."""

    cosine_min: float
    top10_overlap: float

    def met_by(self, found: Agreement) -> bool:
        """Whether that is enough."""
        return found.cosine_min >= self.cosine_min and found.top10_overlap >= self.top10_overlap


# f32 gives 1.000 and 1.00000; bf16 .994 to .998 and .99996; dynamic int8, which must not pass, .874 and .978
PREPARED_LIMITS = Limits(0.999, 0.98)
# a few texts only: with 16 of them one neighbour more or less is .006
START_LIMITS = Limits(0.999, 0.95)


def agreement(a: Embedder, b: Embedder, texts: Sequence[str]) -> Agreement:
    """Embed `texts` (at least two; at least some hundred different ones for a meaningful overlap) with both, compare.

    Exact search: memory is len(texts) squared, 4 bytes each. Raises what `embed` raises.
    """
    return agreement_of(a.embed(texts), b.embed(texts))


def agreement_of(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """Of two sets of unit vectors of the same texts, at least two, both of shape (n, dim)."""
    everything = np.arange(len(reference))
    return _compare(vectors, reference[everything], _near(vectors, vectors, everything), reference, everything)


def agreement_of_some(
    vectors: NDArray[np.float32], reference: NDArray[np.float32], rows: NDArray[np.intp]
) -> Agreement:
    """Of unit vectors of a few texts, those of `rows` of the reference: as queries for the reference's vectors.

    vectors: shape (len(rows), dim). reference: shape (n, dim), n at least two.
    """
    return _compare(vectors, reference[rows], _near(vectors, reference, rows), reference, rows)


def _compare(
    vectors: NDArray[np.float32],
    wanted: NDArray[np.float32],
    near: NDArray[np.intp],
    reference: NDArray[np.float32],
    rows: NDArray[np.intp],
) -> Agreement:
    if len(reference) < 2:
        raise ValueError("agreement needs at least two texts")
    cosines = np.einsum("ij,ij->i", vectors, wanted)
    pairs = zip(near, _near(wanted, reference, rows), strict=True)
    overlaps = [len(np.intersect1d(found, right)) / len(right) for found, right in pairs]
    return Agreement(float(cosines.min()), float(cosines.mean()), float(np.mean(overlaps)))


def _near(queries: NDArray[np.float32], documents: NDArray[np.float32], own: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of `documents` nearest to each query, without its own: shape (n, min(10, len(documents) - 1)), no order."""
    scores = queries @ documents.T
    scores[np.arange(len(queries)), own] = -np.inf
    count = min(_NEIGHBOURS, len(documents) - 1)
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]
