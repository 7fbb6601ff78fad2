"""Query vectors: the model in a thread of its own, a cache in front, and queries that wait go together."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import Embedder
from app.observe.metrics import GatewayMetrics
from app.watchdog import Watchdog
from schemas.errors import BadRequest, Rejected, Retriable

Vector = NDArray[np.float32]

_MOST_TOGETHER = 16  # short queries: 16 take about three times as long as one


class QueryEmbedder:
    """Lives in the gateway's event loop. entries: how many vectors are kept, least recently used go first.

    A query that comes while the model is idle is embedded at once; those that come meanwhile form the next call, so
    that a burst costs each of them less. Equal queries that wait are one.
    """

    def __init__(
        self, embedder: Embedder, entries: int, metrics: GatewayMetrics, watchdog: Watchdog | None = None
    ) -> None:
        self._embedder = embedder
        self._watchdog = watchdog or Watchdog(0)
        self._entries = entries
        self._metrics = metrics
        self._cache: OrderedDict[str, Vector] = OrderedDict()
        self._waiting: OrderedDict[str, asyncio.Future[Vector]] = OrderedDict()
        self._in_model: dict[str, asyncio.Future[Vector]] = {}
        self._work: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="query-model")

    @property
    def fingerprint(self) -> str:
        """Of the model that makes the vectors."""
        return self._embedder.fingerprint

    @property
    def trouble(self) -> str | None:
        """What has taken suspiciously long."""
        return self._watchdog.trouble

    async def embed(self, query: str) -> Vector:
        """The query's vector, shape (dim,), unit length.

        Raises BadRequest if the model cannot take the query, EmbedderUnavailable, or what else the model raises.
        """
        cached = self._cache.get(query)
        if cached is not None:
            self._cache.move_to_end(query)
            self._metrics.query_cache.labels("cache").inc()
            return cached
        waiting = self._in_model.get(query) or self._waiting.get(query)
        self._metrics.query_cache.labels("model" if waiting is None else "waiting").inc()
        if waiting is None:
            waiting = self._waiting[query] = asyncio.get_running_loop().create_future()
            if self._work is None:
                self._work = asyncio.create_task(self._embed_waiting())
        with self._metrics.embed_seconds.time():
            try:
                return await asyncio.shield(waiting)  # others may wait for the same
            except Rejected as error:
                raise BadRequest(f"query: {error.reason}") from error

    def close(self) -> None:
        """No more queries."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _embed_waiting(self) -> None:
        """Until nobody waits: one call of the model after another."""
        try:
            while self._waiting:
                queries = [query for query, _ in zip(self._waiting, range(_MOST_TOGETHER), strict=False)]
                self._in_model = {query: self._waiting.pop(query) for query in queries}
                await self._embed_together(queries)
        finally:
            self._work, self._in_model = None, {}

    async def _embed_together(self, queries: Sequence[str]) -> None:
        try:
            vectors = await self._call(queries)
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            if len(queries) == 1 or isinstance(error, Retriable):
                for query in queries:
                    _fail(self._in_model[query], error)
                return
            for query in queries:  # one of them may be the reason
                await self._embed_together([query])
            return
        for query, vector in zip(queries, vectors, strict=True):
            vector = vector.copy()  # not a view that keeps all of them
            self._keep(query, vector)
            future = self._in_model[query]
            if not future.done():
                future.set_result(vector)

    async def _call(self, queries: Sequence[str]) -> Vector:
        loop = asyncio.get_running_loop()
        with self._watchdog.watch("a query vector"):
            vectors: Vector = await loop.run_in_executor(self._thread, self._embedder.embed, list(queries))
        return vectors

    def _keep(self, query: str, vector: Vector) -> None:
        self._cache[query] = vector
        if len(self._cache) > self._entries:
            self._cache.popitem(last=False)


def unit_vector(values: list[float]) -> Vector:
    """A client's own vector, scaled to unit length. Raises BadRequest if it has no direction."""
    vector = np.asarray(values, np.float64)
    largest = float(np.abs(vector).max()) if len(vector) else 0.0
    if largest == 0.0:
        raise BadRequest("vector: must have at least one number other than 0")
    scaled = vector / largest  # the square of a large number is none
    return (scaled / np.linalg.norm(scaled)).astype(np.float32)


def _fail(future: asyncio.Future[Vector], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever waited may have gone: no complaint that nobody looked
