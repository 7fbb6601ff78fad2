"""Calls the model so that one bad text does not stop the others: it is found, and set aside alone."""

from __future__ import annotations

import time
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from app.crash import crash_point
from app.embed.attempts import MOST_DEATHS, Attempts
from app.embed.economics import Economics
from app.model.embedder import Embedder
from schemas.document_change import MAX_REASON_CHARS
from schemas.errors import EmbedderUnavailable, Retriable, UnembeddableText
from schemas.vector_record import Vectors

_CANARY = "headrace"


class CarefulEmbedder:
    """Called by one thread at a time. dtype: of the vectors it gives out, float16 or float32."""

    def __init__(self, embedder: Embedder, economics: Economics, dtype: str, attempts: Attempts | None = None) -> None:
        self._embedder = embedder
        self._economics = economics
        self._attempts = attempts
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
        deaths = self._attempts.deaths(texts) if self._attempts is not None and self._attempts.careful else []
        return self._warily(texts, deaths) if any(deaths) else self._embed(texts)

    def _warily(self, texts: list[str], deaths: list[int]) -> list[Vectors | UnembeddableText]:
        """What may have ended a process goes alone, and no more once that has happened too often."""
        others = [at for at, count in enumerate(deaths) if not count]
        results = dict(zip(others, self._embed([texts[at] for at in others]), strict=True))
        for at, count in enumerate(deaths):
            if count >= MOST_DEATHS:
                reason = f"the embed worker ended {count} times, killed or hung, while the model had this text"
                results[at] = UnembeddableText(reason, at)
            elif count:
                (results[at],) = self._embed([texts[at]])
        return [results[at] for at in range(len(texts))]

    def _embed(self, texts: list[str]) -> list[Vectors | UnembeddableText]:
        try:
            vectors = self._call(texts)
        except Retriable:
            raise
        except UnembeddableText as error:
            at = error.position
            before, after = texts[:at], texts[at + 1 :]
            return [*self._embed(before), error, *self._embed(after)] if len(texts) > 1 else [error]
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
            return self._embed(texts[:middle]) + self._embed(texts[middle:])
        try:
            self._call([_CANARY])
        except Exception as failed:
            raise EmbedderUnavailable(f"the model fails on any text: {failed}") from failed
        reason = f"the model fails on this text: {type(error).__name__}: {error}"
        return [UnembeddableText(reason[:MAX_REASON_CHARS], 0)]  # some quote the text

    def _call(self, texts: list[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self._embedder.dim), np.float32)
        started = time.perf_counter()
        done_characters = 0  # what a call that failed took says nothing of what the next one will
        try:
            with self._attempts.calling(texts) if self._attempts is not None else nullcontext():
                crash_point("embed.in_model", about=texts)
                vectors = self._embedder.embed(texts)
            done_characters = sum(map(len, texts))
            return vectors
        finally:
            self._economics.called(done_characters, time.perf_counter() - started)
