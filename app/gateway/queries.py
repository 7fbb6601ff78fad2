"""Query vectors: one model call at a time, in a thread of its own, with a cache in front."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import Embedder
from app.observe.metrics import GatewayMetrics
from schemas.errors import BadRequest


class QueryEmbedder:
    """Lives in the gateway's event loop. entries: how many vectors are kept, least recently used go first."""

    def __init__(self, embedder: Embedder, entries: int, metrics: GatewayMetrics) -> None:
        self._embedder = embedder
        self._entries = entries
        self._metrics = metrics
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="query-model")

    @property
    def fingerprint(self) -> str:
        """Of the model that makes the vectors."""
        return self._embedder.fingerprint

    async def embed(self, query: str) -> NDArray[np.float32]:
        """The query's vector, shape (dim,), unit length."""
        cached = self._cache.get(query)
        if cached is not None:
            self._cache.move_to_end(query)
            self._metrics.query_cache.labels("cache").inc()
            return cached
        with self._metrics.embed_seconds.time():
            vectors: NDArray[np.float32] = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._embedder.embed, [query]
            )
        self._metrics.query_cache.labels("model").inc()
        self._cache[query] = vectors[0]
        if len(self._cache) > self._entries:
            self._cache.popitem(last=False)
        vector: NDArray[np.float32] = vectors[0]
        return vector

    def close(self) -> None:
        """No more queries."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def unit_vector(values: list[float]) -> NDArray[np.float32]:
    """A client's own vector, scaled to unit length. Raises BadRequest if it has no direction."""
    vector = np.asarray(values, np.float64)
    norm = float(np.linalg.norm(vector)) if len(vector) else 0.0
    if norm == 0.0 or not np.isfinite(norm):
        raise BadRequest("vector: must have at least one number other than 0")
    return (vector / norm).astype(np.float32)
