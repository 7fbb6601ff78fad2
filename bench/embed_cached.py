"""Documents whose cuts and vectors are all known, for `bench.embed`: what the embed worker does instead of the model.

`python -m bench.embed_cached CHUNKS REDIS_URL` in a process of its own; see `serve`. Without a URL there is no Redis.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.embed.cache import Caches, TextCache
from app.embed.chunks import ChunkEmbedder
from app.embed.claims import Claims
from app.embed.coalesce import content_hash
from app.embed.economics import Economics
from app.embed.events import Work
from app.event import Event
from app.local.corpus import Docstring
from app.model.chunker import Chunker
from app.model.embedder import CPU_BATCH_BYTES, unit_rows
from app.model.source import open_source
from app.model.tokens import ModelTokenizer
from app.observe.metrics import EmbedMetrics
from app.observe.tracing import new_traceparent
from app.redis_link import RedisLink
from app.settings import load_settings
from bench.embed_worker import Commands, Facts, serve
from bench.publish import upsert
from bench.texts import Reader

_AT_ONCE = 500
_WARM_UPS = 1

Batch = list[Work]


@dataclass
class Chance:
    """Embedder (see there) that fills the caches: what the vectors are does not matter to who finds them."""

    tokenizer: ModelTokenizer
    dim: int
    max_tokens: int
    name: str = "chance"
    batch_bytes: int = CPU_BATCH_BYTES
    fingerprint: str = "chance"
    runtime: str = "chance"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Any vectors of unit length."""
        return unit_rows(np.random.default_rng(len(texts)).normal(size=(len(texts), self.dim)).astype(np.float32))


class Known:
    """Documents in batches as the worker takes them, and caches that know all of them once `fill` is done."""

    def __init__(self, chunks: int, redis_url: str) -> None:
        self._settings = load_settings(redis_url=redis_url)
        source = open_source(self._settings)
        dim = int(source.folder.config["hidden_size"])
        self._embedder = Chance(source.tokenizer, dim, source.tokenizer.max_tokens)
        self._chunker = Chunker(source.tokenizer, self._settings.max_chunk_tokens)
        self._link = RedisLink(self._settings)
        self._link.require()
        self._batches, self.chunks = self._read(chunks)
        self._caches = self._empty()
        for batch in self._batches:
            self._worker(self._caches, EmbedMetrics()).embed(batch)

    @property
    def facts(self) -> Facts:
        """What is known."""
        documents = sum(map(len, self._batches))
        return {"documents": documents, "chunks": self.chunks, "batches": len(self._batches)}

    def memory(self, passes: int) -> Facts:
        """All documents again, several times: everything is in this process."""
        return self._measure("memory", [self._caches] * (passes + _WARM_UPS))

    def redis(self, passes: int) -> Facts:
        """All documents again, several times, each time in a worker that knows nothing itself."""
        return self._measure("redis", (self._empty() for _ in range(passes + _WARM_UPS)))

    def _measure(self, source: str, caches: Sequence[Caches] | Iterator[Caches]) -> Facts:
        """Seconds of each pass, and by source how many chunks and cuts came from it in all of them."""
        metrics = EmbedMetrics()
        seconds = []
        for each in caches:
            worker = self._worker(each, metrics)
            began = time.perf_counter()
            for batch in self._batches:
                worker.embed(batch)
            seconds.append(time.perf_counter() - began)
        counted = {name: _by_source(metrics, name) for name in ("chunks", "cuts")}
        elsewhere = {name for found in counted.values() for name, count in found.items() if count} - {source, "batch"}
        return {"seconds": seconds[_WARM_UPS:], "counted": counted, "only_known": not elsewhere}

    def _worker(self, caches: Caches, metrics: EmbedMetrics) -> ChunkEmbedder:
        claims, economics = Claims(self._link, caches.vectors, lambda: True), Economics(metrics)
        return ChunkEmbedder(self._embedder, self._chunker, caches, claims, economics, self._settings.vector_storage)

    def _empty(self) -> Caches:
        """As the worker has them when it starts."""
        room_bytes, ttl_hours = self._settings.cache_memory_mb * 2**20, self._settings.cache_ttl_hours
        model = self._embedder.fingerprint
        vectors = TextCache(self._link, "vector", model, room_bytes * 9 // 10, ttl_hours)
        return Caches(self._link, vectors, TextCache(self._link, "cut", model, room_bytes // 10, ttl_hours))

    def _read(self, chunks: int) -> tuple[list[Batch], int]:
        """Docstrings with titles, until they make so many chunks; how many they make."""
        batches: list[Batch] = [[]]
        reader, found, room = Reader(), 0, CPU_BATCH_BYTES
        while found < chunks and (documents := reader.documents(_AT_ONCE)):
            for document in documents:
                found += len(self._chunker.chunk(document.text, document.title))
                if room <= 0 or len(batches[-1]) == self._settings.batch_max_documents:
                    batches.append([])
                    room = CPU_BATCH_BYTES
                batches[-1].append(_work(document, len(batches[-1])))
                room -= len(document.text.encode())
                if found >= chunks:
                    break
        return batches, found


def _work(document: Docstring, offset: int) -> Work:
    change = upsert(document.id, document.text, document.title)
    event = Event(0, offset, document.id.encode(), b"", (), time.time_ns() // 1_000_000, time.time_ns())
    return Work(event, change, content_hash(change), offset, offset, new_traceparent())


def _by_source(metrics: EmbedMetrics, name: str) -> dict[str, float]:
    (metric,) = getattr(metrics, name).collect()
    return {item.labels["source"]: item.value for item in metric.samples if item.name.endswith("_total")}


def _made(chunks: str, redis_url: str = "") -> tuple[Facts, Commands]:
    known = Known(int(chunks), redis_url)
    return known.facts, {"memory": known.memory, "redis": known.redis}


if __name__ == "__main__":
    serve(lambda: _made(*sys.argv[1:]))
