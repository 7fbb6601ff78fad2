"""Index workers as small servers that say what a test wants, and a gateway in front of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from app.freshness.lag import LagWatch
from app.gateway.asking import WorkerApi
from app.gateway.deletes import DeleteWatch
from app.gateway.directory import Directory
from app.gateway.fanout import Fanout
from app.gateway.queries import QueryEmbedder
from app.gateway.replicas import Replicas
from app.gateway.server import Gateway
from app.model.embedder import Embedder
from app.model.hashing import HashingEmbedder
from app.observe.metrics import GatewayMetrics
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings

DIM = 16
SHARD_TIMEOUT_MS = 250
IN_TIME_S = 0.9  # twice that and some: less than with a poll of a worker that hangs, 1 s, or a third attempt


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def hit(document_id: str, vector: float | None, keyword: float | None = None, **changed: Any) -> dict[str, Any]:
    """A hit as an index worker tells it. vector, keyword: its scores; None: that search did not find it."""
    text = changed.get("text", f"text of {document_id}")
    given = {
        "id": document_id,
        "score": vector if vector is not None else keyword,
        "vector_score": vector,
        "keyword_score": keyword,
        "title": None,
        "text": text,
        "chunks": [{"text": text, "start": 0, "end": len(text or ""), "score": 1.0}],
        "metadata": {},
        "version": None,
        "shard": 0,
        "source_offset": 3,
        "event_time_ms": 1000,
        "indexed_time_ms": 2000,
        "trace_id": None,
    }
    return given | changed


class FakeWorker:
    """shards: what each partition says to a search. answers: how it behaves: "well", a status, "never", or "hangs".

    "never" still says who it is; "hangs" says nothing at all, as a process that was stopped.

    told: what each partition says of itself beside the least that any worker does; more: what the worker does.
    """

    def __init__(self, partitions: int, *owned: int, replica: str = "0") -> None:
        self.partitions = partitions
        self.replica = replica
        self.shards: dict[int, dict[str, Any]] = {p: said() for p in owned}
        self.states = dict.fromkeys(owned, "ready")
        self.told: dict[int, dict[str, Any]] = {}
        self.more: dict[str, Any] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.deletes: dict[str, Any] | None = None
        self.deletes_after: str | None = None
        self.answers: str | int = "well"
        self.describes: Any = None
        self.asked: list[dict[str, Any]] = []
        self.document_ids: list[str] = []
        self.server: TestServer | None = None

    async def start(self) -> None:
        application = web.Application()
        application.add_routes(
            [
                web.get("/shards", self._status),
                web.post("/shards/search", self._search),
                web.get("/shards/document", self._document),
                web.get("/shards/row", self._row),
            ]
        )
        self.server = TestServer(application)
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.close()
            self.server = None

    async def _status(self, request: web.Request) -> web.Response:
        self.deletes_after = request.query.get("deletes_after")
        if self.answers == "hangs":
            await asyncio.sleep(30)
        if self.describes is not None:
            return _json(self.describes)
        rows = [
            {
                "partition": partition,
                "state": self.states.get(partition, "ready"),
                "documents": len(said["hits"]) if "hits" in said else 0,
                "chunks": 1,
                "applied_offset": said.get("applied_offset"),
                "as_of_ms": said.get("as_of_ms"),
            }
            | self.told.get(partition, {})
            for partition, said in self.shards.items()
        ]
        told = self.more | ({} if self.deletes is None else {"deletes": self.deletes})
        return _json({"replica": self.replica, "partitions": self.partitions, "shards": rows, "recent": []} | told)

    async def _search(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.asked.append(body)
        if self.answers in ("never", "hangs"):
            await asyncio.sleep(30)
        if isinstance(self.answers, int):
            return web.Response(status=self.answers, text="trouble")
        moved = {"error": "is not owned by this worker", "status": 503}
        return _json({"shards": {str(p): self.shards.get(p, moved) for p in body["shards"]}})

    async def _document(self, request: web.Request) -> web.Response:
        document_id = request.query["id"]
        self.document_ids.append(document_id)
        if self.answers in ("never", "hangs"):
            await asyncio.sleep(30)
        if isinstance(self.answers, int):
            return web.Response(status=self.answers, text="trouble")
        answer = self.documents.get(document_id)
        shards = {"shards": list(self.shards)}
        return _json({"document": None} | shards, 404) if answer is None else _json(answer | shards)

    async def _row(self, request: web.Request) -> web.Response:
        if isinstance(self.answers, int):
            return web.Response(status=self.answers, text="trouble")
        rows = self.rows.get(request.query["id"], {})
        places = ("applied_offset", "as_of_ms")
        shards = {p: {"row": rows.get(p)} | {name: said[name] for name in places} for p, said in self.shards.items()}
        return _json({"shards": {str(p): told for p, told in shards.items()}})


def said(*hits: dict[str, Any], as_of_ms: int | None = None, offset: int | None = 9, **more: Any) -> dict[str, Any]:
    """What a shard says to a search; fresh if as_of_ms is not given."""
    return {"hits": list(hits), "applied_offset": offset, "as_of_ms": now_ms() if as_of_ms is None else as_of_ms} | more


def stored(document_id: str, *, deleted: bool = False, **changed: Any) -> dict[str, Any]:
    """What an index worker says of a document."""
    row = hit(document_id, 0.0, **changed)
    for name in ("score", "vector_score", "keyword_score", "chunks"):
        del row[name]
    return {"document": row, "deleted": deleted, "applied_offset": 9, "as_of_ms": now_ms()}


TOLD: dict[str, Any] = {
    "documents": 100,
    "chunks": 120,
    "buffered": 7,
    "graph_dead_ratio": 0.1,
    "recall_at_10": 0.98,
    "recall_samples": 40,
    "ef_search": 64,
    "memory_bytes": {"graph": 1000, "rows": 200, "buffer": 30, "keyword": 4},
    "disk_bytes": 5000,
    "snapshot_chunks": 110,
    "snapshot_ms": 1_700_000_000_000,
    "rebuilding": False,
    "rebuild_progress": 1.0,
    "rebuild_reason": "dead share",
    "rebuild_seconds": 1.5,
    "paused": None,
}
"""What a worker tells of a shard for /stats."""


class FakeRegistry(Registry):
    """known: what Redis says; None: Redis is gone."""

    def __init__(self) -> None:
        super().__init__(RedisLink(Settings(_env_file=None, redis_url="")), "c")
        self.known: list[str] | None = []
        self.embed_workers: dict[str, dict[str, Any]] | None = {}

    def urls(self) -> list[str] | None:
        return self.known


class Served:
    """A gateway and a client of it."""

    def __init__(self, client: TestClient[Any, Any], directory: Directory, registry: FakeRegistry) -> None:
        self.client = client
        self.directory = directory
        self.registry = registry
        self.metrics: GatewayMetrics

    async def search(self, status: int = 200, **body: Any) -> dict[str, Any]:
        """POST /search; a query unless the body has a vector."""
        asked = body if "vector" in body else {"query": "x"} | body
        return await self.post(orjson.dumps(asked), status)

    async def post(self, body: bytes, status: int = 200) -> dict[str, Any]:
        async with self.client.post("/search", data=body) as response:
            answer: dict[str, Any] = orjson.loads(await response.read())
            assert response.status == status, answer
            assert response.content_type == "application/json"
        return answer

    async def refused(self, status: int, **body: Any) -> str:
        """The message of a search that ends with this status."""
        return message(await self.search(status, **body), status)

    async def get(self, path: str | URL, status: int = 200) -> Any:
        async with self.client.get(path) as response:
            answer = orjson.loads(await response.read())
            assert response.status == status, answer
        return answer


def message(answer: dict[str, Any], status: int) -> str:
    assert set(answer) == {"error"}
    assert answer["error"]["status"] == status
    return str(answer["error"]["message"])


@asynccontextmanager
async def gateway(
    *workers: FakeWorker, redis: bool = True, embedder: Embedder | None = None, **changed: Any
) -> AsyncIterator[Served]:
    """Workers are started here; those of `workers` are registered."""
    settings = Settings(_env_file=None, redis_url="", **({"shard_timeout_ms": SHARD_TIMEOUT_MS} | changed))
    registry, metrics = FakeRegistry(), GatewayMetrics()
    queries = QueryEmbedder(embedder or HashingEmbedder(DIM), settings.query_cache_entries, metrics)
    async with AsyncExitStack() as stack:
        stack.callback(queries.close)
        for worker in workers:
            await worker.start()
            stack.push_async_callback(worker.stop)
        registry.known = [worker.url for worker in workers] if redis else None
        session = await stack.enter_async_context(aiohttp.ClientSession())
        directory = Directory(settings.collection, registry, settings.index_urls, session, DeleteWatch(metrics))
        api = WorkerApi(session, settings.shard_timeout_ms)
        fanout, replicas = Fanout(directory, api), Replicas(directory, api)
        embed_workers = lambda: registry.embed_workers  # noqa: E731
        lag = LagWatch(settings, directory)
        metrics.lag.read = lag.report
        parts = Gateway(settings, directory, fanout, replicas, queries, lambda: "ok", embed_workers, metrics, lag.body)
        server = TestServer(parts.application())
        await server.start_server(auto_decompress=False)  # as HttpThread does
        client = await stack.enter_async_context(TestClient(server))
        served = Served(client, directory, registry)
        served.metrics = metrics
        await directory.refresh()
        yield served


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
