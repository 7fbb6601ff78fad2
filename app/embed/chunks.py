"""From documents to chunk vectors: cut, look up what is known, embed the rest, set aside what breaks the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.embed.cache import TextCache
from app.embed.events import Work
from app.model.chunker import Chunk, Chunker, Cut
from app.model.embedder import Embedder
from app.observe.metrics import EmbedMetrics
from schemas.errors import EmbedderUnavailable, Retriable, UnembeddableText
from schemas.vector_record import Vectors

_CANARY = "headrace"


@dataclass(frozen=True, slots=True)
class Embedded:
    """The chunks of one document; vectors: shape (len(chunks), dim)."""

    chunks: list[Chunk]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """results: one per document, in order. vectors, cuts: what had to be computed, by cache key, to be kept later."""

    results: list[Embedded | UnembeddableText]
    vectors: dict[bytes, bytes]
    cuts: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Caches:
    """vectors: by the text of a chunk, in the type of records. cuts: by title and text of a document, `_encode_cut`."""

    vectors: TextCache
    cuts: TextCache

    def keep(self, batch: EmbeddedBatch) -> None:
        """Remember what a batch had to compute."""
        self.vectors.put(batch.vectors)
        self.cuts.put(batch.cuts)


class ChunkEmbedder:
    """Called by one thread at a time. dtype: of the vectors it gives out, float16 or float32."""

    def __init__(
        self, embedder: Embedder, chunker: Chunker, caches: Caches, metrics: EmbedMetrics, dtype: str = "float16"
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._embedder = embedder
        self._chunker = chunker
        self._caches = caches
        self._metrics = metrics

    def embed(self, works: Sequence[Work]) -> EmbeddedBatch:
        """Embed documents; a delete has no chunks. Identical texts are embedded once, known ones not at all.

        Raises EmbedderUnavailable: nothing is to be remembered, try the whole batch again.
        """
        documents, fresh_cuts = self._cut(works)
        texts = [chunk.embed_text for chunks in documents for chunk in chunks]
        keys = self._caches.vectors.keys(texts)
        known = self._caches.vectors.get(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        self._metrics.chunks.labels("cache").inc(len(keys) - len(missing))
        self._metrics.chunks.labels("model").inc(len(missing))
        fresh: dict[bytes, bytes] = {}
        broken: dict[bytes, UnembeddableText] = {}
        for key, result in zip(missing, self._embed_texts(list(missing.values())), strict=True):
            if isinstance(result, UnembeddableText):
                broken[key] = result
            else:
                fresh[key] = result.tobytes()
        vectors = known | fresh
        results: list[Embedded | UnembeddableText] = []
        position = 0
        for chunks in documents:
            own = keys[position : position + len(chunks)]
            position += len(chunks)
            error = next((broken[key] for key in own if key in broken), None) if broken else None
            results.append(error or Embedded(chunks, self._stack([vectors[key] for key in own])))
        return EmbeddedBatch(results, fresh, fresh_cuts)

    def _cut(self, works: Sequence[Work]) -> tuple[list[list[Chunk]], dict[bytes, bytes]]:
        """The chunks of each document, and the cuts that were not known. Finding borders means tokenising."""
        keys = self._caches.cuts.keys([f"{work.change.title or ''}\0{work.change.text or ''}" for work in works])
        known = self._caches.cuts.get(keys)
        fresh: dict[bytes, bytes] = {}
        documents: list[list[Chunk]] = []
        for work, key in zip(works, keys, strict=True):
            text, title = work.change.text or "", work.change.title
            if work.change.op == "delete":
                documents.append([])
                continue
            value = known.get(key)
            cut = _decode_cut(value) if value else self._chunker.cut(text, title)
            if not value:
                fresh[key] = _encode_cut(cut)
            documents.append(cut.chunks(text, title))
        return documents, fresh

    def _stack(self, vectors: list[bytes]) -> Vectors:
        return np.frombuffer(b"".join(vectors), self._dtype).reshape(-1, self._embedder.dim)

    def _embed_texts(self, texts: list[str]) -> list[Vectors | UnembeddableText]:
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
        stored = vectors.astype(self._dtype)
        finite: NDArray[np.bool_] = np.isfinite(stored.sum(axis=1))
        return [
            stored[i] if finite[i] else UnembeddableText("the model returned a vector that is not finite", i)
            for i in range(len(texts))
        ]

    def _bisect(self, texts: list[str], error: Exception) -> list[Vectors | UnembeddableText]:
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


def _encode_cut(cut: Cut) -> bytes:
    """Unsigned 32-bit numbers: code points of the title, then start and end of each span."""
    return np.array([cut.title_chars, *(border for span in cut.spans for border in span)], "<u4").tobytes()


def _decode_cut(value: bytes) -> Cut:
    title_chars, *borders = np.frombuffer(value, "<u4").tolist()
    return Cut(title_chars, tuple(zip(borders[::2], borders[1::2], strict=True)))
