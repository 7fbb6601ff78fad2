"""An index worker with real shards and a gateway in front of it, each a real HTTP server, without Kafka and Redis."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from app.model.hashing import HashingEmbedder
from app.observe.http import HttpThread, listen
from app.observe.metrics import IndexMetrics
from app.shard.serve import ShardServer
from app.shard.shards import Shards
from tests.unit.gateway.parts import gateway
from tests.unit.shard.parts import DIM, document, random_units, shard_settings, watermark

IDS = ["a", "b/c", "d e", "ключ", "%2F", "\0"]


@dataclass
class Running:
    """Base URLs."""

    worker: str
    gateway: str


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Until the block ends; the servers have a thread and a loop of their own."""
    embedder = HashingEmbedder(DIM)
    shards = Shards(shard_settings(folder), "epoch")
    shards.acquire({0, 1})
    rows = random_units(len(IDS), 1)
    for at, document_id in enumerate(IDS):
        metadata = {"lang": "en", "year": 2000 + at, "tags": ["x"], "none": None, "share": 0.5, "on": True}
        made = document(at // 2, document_id, rows[at], metadata=metadata, fingerprint=embedder.fingerprint)
        shards.open[at % 2].apply([made])
    shards.open[1].apply([watermark(9, 40)])
    told = {"url": "u", "collection": "documents", "replica": "0", "partitions": 2}
    server = ShardServer(shards, deque(), lambda: told, lambda: None, IndexMetrics())
    application = web.Application(client_max_size=2**20)
    application.add_routes(server.routes())
    http = HttpThread(application, listen("127.0.0.1", 0, "the index worker"))
    http.start()
    up, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        url = f"http://127.0.0.1:{http.port}"
        options = {"index_urls": url, "shard_timeout_ms": 5000}
        async with gateway(redis=False, embedder=embedder, **options) as served:
            urls.extend((url, str(served.client.make_url("")).rstrip("/")))
            up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="stack")
    thread.start()
    try:
        assert up.wait(20)
        yield Running(*urls)
    finally:
        stop.set()
        thread.join(20)
        http.close()
        server.close()
        shards.close()
