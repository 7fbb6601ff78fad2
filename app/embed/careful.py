"""Calls the model so that one bad text does not stop the others: it is found, and set aside alone."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from app.embed.economics import Economics
from app.model.embedder import Embedder
from schemas.errors import EmbedderUnavailable, Retriable, UnembeddableText
from schemas.vector_record import Vectors

_CANARY = "headrace"


class CarefulEmbedder:
    """Called by one thread at a time. dtype: of the vectors it gives out, float16 or float32."""

    def __init__(self, embedder: Embedder, economics: Economics, dtype: str) -> None:
        self._embedder = embedder
        self._economics = economics
        self.dtype = np.dtype(dtype)

    @property
    def dim(self) -> int:
        """See Embedder."""
        return self._embedder.dim

    @property
    def batch_bytes(self) -> int:
        """See Embedder."""
        return self._embedder.batch_bytes

    def embed(self, texts: list[str]) -> list[Vectors | UnembeddableText]:
        """One result per text, a vector of shape (dim,) or why there is none.

        Raises EmbedderUnavailable when the model fails on any text: none of these is to blame.
        """
        try:
            vectors = self._call(texts)
        except Retriable:
            raise
        except UnembeddableText as error:
            at = error.position
            before, after = texts[:at], texts[at + 1 :]
            return [*self.embed(before), error, *self.embed(after)] if len(texts) > 1 else [error]
        except Exception as error:  # noqa: BLE001 - TextsRefused, and whatever else a model raises
            return self._bisect(texts, error)
        stored = vectors.astype(self.dtype)
        finite: NDArray[np.bool_] = np.isfinite(stored.sum(axis=1, dtype=np.float32))
        return [
            stored[i] if finite[i] else UnembeddableText("the model returned a vector that is not finite", i)
            for i in range(len(texts))
        ]

    def _bisect(self, texts: list[str], error: Exception) -> list[Vectors | UnembeddableText]:
        if len(texts) > 1:
            middle = len(texts) // 2
            return self.embed(texts[:middle]) + self.embed(texts[middle:])
        try:
            self._call([_CANARY])
        except Exception as failed:
            raise EmbedderUnavailable(f"the model fails on any text: {failed}") from failed
        return [UnembeddableText(f"the model fails on this text: {type(error).__name__}: {error}", 0)]

    def _call(self, texts: list[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self._embedder.dim), np.float32)
        started = time.perf_counter()
        done_characters = 0  # what a call that failed took says nothing of what the next one will
        try:
            vectors = self._embedder.embed(texts)
            done_characters = sum(map(len, texts))
            return vectors
        finally:
            self._economics.called(done_characters, time.perf_counter() - started)
