"""From documents to chunk vectors: cut, look up what is known, embed the rest, set aside what breaks the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.embed.cache import VectorCache
from app.embed.events import Work
from app.model.chunker import Chunk, Chunker
from app.model.embedder import Embedder
from app.observe.metrics import EmbedMetrics
from schemas.errors import EmbedderUnavailable, Retriable, UnembeddableText

_CANARY = "headrace"


@dataclass(frozen=True, slots=True)
class Embedded:
    """The chunks of one document; vectors: shape (len(chunks), dim), float16."""

    chunks: list[Chunk]
    vectors: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """results: one per document, in order. fresh: what the model computed, by cache key, to be remembered later."""

    results: list[Embedded | UnembeddableText]
    fresh: dict[bytes, NDArray[np.float16]]


class ChunkEmbedder:
    """Called by one thread at a time."""

    def __init__(self, embedder: Embedder, chunker: Chunker, cache: VectorCache, metrics: EmbedMetrics) -> None:
        self._embedder = embedder
        self._chunker = chunker
        self._cache = cache
        self._metrics = metrics

    def embed(self, works: Sequence[Work]) -> EmbeddedBatch:
        """Embed documents; a delete has no chunks. Identical texts are embedded once, known ones not at all.

        Raises EmbedderUnavailable: nothing is to be remembered, try the whole batch again.
        """
        documents = [self._cut(work) for work in works]
        texts = [chunk.embed_text for chunks in documents for chunk in chunks]
        keys = self._cache.keys(texts)
        known = self._cache.get(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        self._metrics.chunks.labels("cache").inc(len(keys) - len(missing))
        self._metrics.chunks.labels("model").inc(len(missing))
        fresh: dict[bytes, NDArray[np.float16]] = {}
        broken: dict[bytes, UnembeddableText] = {}
        if missing:
            for key, result in zip(missing, self._embed_texts(list(missing.values())), strict=True):
                if isinstance(result, UnembeddableText):
                    broken[key] = result
                else:
                    fresh[key] = result
        vectors = known | fresh
        results: list[Embedded | UnembeddableText] = []
        position = 0
        for chunks in documents:
            own = keys[position : position + len(chunks)]
            position += len(chunks)
            error = next((broken[key] for key in own if key in broken), None)
            results.append(error or Embedded(chunks, self._stack([vectors[key] for key in own])))
        return EmbeddedBatch(results, fresh)

    def _cut(self, work: Work) -> list[Chunk]:
        if work.change.op == "delete":
            return []
        return self._chunker.chunk(work.change.text or "", work.change.title)

    def _stack(self, vectors: list[NDArray[np.float16]]) -> NDArray[np.float16]:
        return np.stack(vectors) if vectors else np.empty((0, self._embedder.dim), np.float16)

    def _embed_texts(self, texts: list[str]) -> list[NDArray[np.float16] | UnembeddableText]:
        """One result per text; a text that breaks the model is found by bisection."""
        try:
            vectors = self._call_model(texts)
        except Retriable:
            raise
        except UnembeddableText as error:
            at = error.position
            before, after = texts[:at], texts[at + 1 :]
            return [*self._embed_texts(before), error, *self._embed_texts(after)] if len(texts) > 1 else [error]
        except Exception as error:  # noqa: BLE001 - whatever a model raises: one bad text must not stop the others
            return self._bisect(texts, error)
        halves = vectors.astype(np.float16)
        finite: NDArray[np.bool_] = np.isfinite(halves.sum(axis=1))
        return [
            halves[i] if finite[i] else UnembeddableText("the model returned a vector that is not finite", i)
            for i in range(len(texts))
        ]

    def _bisect(self, texts: list[str], error: Exception) -> list[NDArray[np.float16] | UnembeddableText]:
        if len(texts) > 1:
            middle = len(texts) // 2
            return self._embed_texts(texts[:middle]) + self._embed_texts(texts[middle:])
        try:
            self._call_model([_CANARY])
        except Exception as failed:
            raise EmbedderUnavailable(f"the model fails on any text: {failed}") from failed
        return [UnembeddableText(f"the model fails on this text: {type(error).__name__}: {error}", 0)]

    def _call_model(self, texts: list[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self._embedder.dim), np.float32)
        started = time.perf_counter()
        try:
            return self._embedder.embed(texts)
        finally:
            self._metrics.model_calls.inc()
            self._metrics.model_seconds.inc(time.perf_counter() - started)
