"""From documents to chunk vectors: cut, look up what is known, embed the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.crash import crash_point
from app.embed.attempts import Attempts
from app.embed.cache import Caches
from app.embed.careful import CarefulEmbedder
from app.embed.claims import Claims
from app.embed.economics import Economics, ModelCost
from app.embed.events import Work, stamp
from app.model.chunker import Chunk, Chunker, Cut
from app.model.embedder import Embedder
from schemas.errors import UnembeddableText
from schemas.vector_record import Vectors

Texts = dict[bytes, str]
"""Texts by cache key."""
_NORM_TOLERANCE = 0.02  # of a vector in a cache; rounding to float16 takes less than 0.001


@dataclass(frozen=True, slots=True)
class Embedded:
    """The chunks of one document; vectors: shape (len(chunks), dim). known: how many of them needed no model."""

    chunks: list[Chunk]
    vectors: Vectors
    known: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """results: one per document, in order. vectors: what the model made, by cache key. cost: what that took."""

    results: list[Embedded | UnembeddableText]
    vectors: dict[bytes, bytes]
    cost: ModelCost


@dataclass(slots=True)
class _Fresh:
    """What the model made of texts, and why it made nothing of others, by cache key."""

    vectors: dict[bytes, bytes]
    broken: dict[bytes, UnembeddableText]
    characters: int


class ChunkEmbedder:
    """Called by one thread at a time. dtype: of the vectors it gives out, float16 or float32."""

    def __init__(
        self,
        embedder: Embedder,
        chunker: Chunker,
        caches: Caches,
        claims: Claims,
        economics: Economics,
        dtype: str = "float16",
        attempts: Attempts | None = None,
    ) -> None:
        self._model = CarefulEmbedder(embedder, economics, dtype, attempts)
        self._attempts = attempts
        self._chunker = chunker
        self._caches = caches
        self._claims = claims
        self._economics = economics
        self._vector_bytes = embedder.dim * self._model.dtype.itemsize

    @property
    def batch_bytes(self) -> int:
        """See Embedder."""
        return self._model.batch_bytes

    def embed(self, works: Sequence[Work]) -> EmbeddedBatch:
        """Embed documents; a delete has no chunks. Identical texts are embedded once, known ones not at all.

        What had to be computed is in the caches when this returns: it is a function of model and text alone, and
        another worker may need it now. Raises EmbedderUnavailable: try the whole batch again.
        """
        spent_before = self._economics.spent
        documents, fresh_cuts = self._cut(works)
        texts = [chunk.embed_text for chunks in documents for chunk in chunks]
        keys = self._caches.vectors.keys(texts)
        found = self._caches.vectors.get(keys)
        stamp(works, "looked_up")
        memory, redis = self._sound(found.memory), self._sound(found.redis)
        vectors = memory | redis
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        taken = self._claims.taken(list(missing), self._economics.estimate_s(_characters(missing)))
        crash_point("embed.claimed")
        if self._attempts is not None and self._attempts.careful:
            self._attempts.locate(
                {
                    chunk.embed_text: work.event.partition
                    for work, chunks in zip(works, documents, strict=True)
                    for chunk in chunks
                }
            )
        fresh = self._compute({key: text for key, text in missing.items() if key not in taken}, fresh_cuts)
        arrived = self._from_others({key: text for key, text in missing.items() if key in taken}, fresh)
        model_texts = len(missing) - len(arrived)
        sources = {"memory": len(memory), "redis": len(redis), "model": model_texts, "worker": len(arrived)}
        sources["batch"] = len(keys) - sum(sources.values())
        self._economics.chunks(sources, sum(map(len, texts)) - fresh.characters)
        results = self._results(documents, keys, vectors | arrived, fresh)
        return EmbeddedBatch(results, fresh.vectors, self._economics.spent - spent_before)

    def _cut(self, works: Sequence[Work]) -> tuple[list[list[Chunk]], dict[bytes, bytes]]:
        """The chunks of each document, and the cuts that were not known. Finding borders means tokenising."""
        changes = [work.change for work in works]
        upserts = [change for change in changes if change.op != "delete"]
        keys = self._caches.cuts.keys(f"{change.title or ''}\0{change.text or ''}" for change in upserts)
        found = self._caches.cuts.get(keys)
        values = found.memory | found.redis
        fresh: dict[bytes, bytes] = {}
        sources = Counter(memory=len(found.memory), redis=len(found.redis), batch=len(keys) - len(set(keys)))
        cuts = []
        for change, key in zip(upserts, keys, strict=True):
            cut = _decoded(values.get(key), change.text or "")
            if cut is None:
                cut = self._chunker.cut(change.text or "", change.title)
                values[key] = fresh[key] = cut.encode()
            cuts.append(cut)
        sources["chunker"] = len(fresh)
        self._economics.cuts(sources)
        chunks = (cut.chunks(change.text or "", change.title) for cut, change in zip(cuts, upserts, strict=True))
        return [[] if change.op == "delete" else next(chunks) for change in changes], fresh

    def _compute(self, texts: Texts, cuts: Mapping[bytes, bytes]) -> _Fresh:
        """Have the model embed texts, and keep that and the cuts."""
        fresh = _Fresh({}, {}, _characters(texts))
        for key, result in zip(texts, self._model.embed(list(texts.values())), strict=True):
            if isinstance(result, UnembeddableText):
                fresh.broken[key] = result
            else:
                fresh.vectors[key] = result.tobytes()
        self._caches.keep(fresh.vectors, cuts)
        return fresh

    def _from_others(self, texts: Texts, fresh: _Fresh) -> dict[bytes, bytes]:
        """What other workers make of texts; what does not come in time is added to `fresh`."""
        if not texts:
            return {}
        arrived = self._sound(self._claims.wait(texts, self._economics.estimate_s(_characters(texts))))
        late = self._compute({key: text for key, text in texts.items() if key not in arrived}, {})
        fresh.vectors |= late.vectors
        fresh.broken |= late.broken
        fresh.characters += late.characters
        return arrived

    def _results(
        self,
        documents: Iterable[list[Chunk]],
        keys: Sequence[bytes],
        known: Mapping[bytes, bytes],
        fresh: _Fresh,
    ) -> list[Embedded | UnembeddableText]:
        broken = fresh.broken
        vectors = {**known, **fresh.vectors, **dict.fromkeys(broken, bytes(self._vector_bytes))}
        joined = b"".join([vectors[key] for key in keys])
        matrix = np.frombuffer(joined, self._model.dtype).reshape(-1, self._model.dim)
        results: list[Embedded | UnembeddableText] = []
        start = 0
        for chunks in documents:
            end = start + len(chunks)
            error = next((broken[key] for key in keys[start:end] if key in broken), None) if broken else None
            results.append(error or Embedded(chunks, matrix[start:end], sum(key in known for key in keys[start:end])))
            start = end
        return results

    def _sound(self, values: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Without what cannot be one of our vectors: Redis is shared, and may hold anything."""
        size = self._vector_bytes
        sized = {key: value for key, value in values.items() if len(value) == size}
        if not sized:
            return sized
        rows = np.frombuffer(b"".join(sized.values()), self._model.dtype).reshape(len(sized), -1).astype(np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        unit = np.abs(norms - 1) < _NORM_TOLERANCE  # not where one is not finite
        return (
            sized
            if unit.all()
            else {key: value for (key, value), sound in zip(sized.items(), unit, strict=True) if sound}
        )


def _characters(texts: Texts) -> int:
    return sum(map(len, texts.values()))


def _decoded(value: bytes | None, text: str) -> Cut | None:
    try:
        cut = None if value is None else Cut.decode(value)
    except ValueError:
        return None  # not ours: as if nothing were known
    return cut if cut is not None and cut.fits(text) else None
