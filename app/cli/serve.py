"""`headrace serve`: builds the parts of a search gateway and runs it."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import aiohttp
import click
from aiohttp import web

from app.cli.options import setting_flags
from app.freshness.lag import LagWatch
from app.gateway.asking import WorkerApi
from app.gateway.deletes import DeleteWatch
from app.gateway.directory import Directory
from app.gateway.fanout import Fanout
from app.gateway.queries import QueryEmbedder
from app.gateway.replicas import Replicas
from app.gateway.server import Gateway
from app.model.load import load_embedder
from app.observe.http import listen
from app.observe.logs import set_up_logs
from app.observe.metrics import GatewayMetrics
from app.observe.push import MetricsPush
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings, load_settings
from app.watchdog import Watchdog, changing
from schemas.errors import SettingsError

log = logging.getLogger("headrace.gateway")

_STOP_S = 5.0


@click.command()
@setting_flags("collection", "redis_url", "index_urls", "model", "runtime", "precision", "host", "port", "log_level")
def serve(**flags: Any) -> None:
    """Run a search gateway: the HTTP API, its page at / and its description at /docs.

    Finds the index workers in Redis, or where --index-urls says. Runs until SIGTERM or Ctrl-C.
    """
    settings = load_settings(**flags)
    set_up_logs(settings)
    if settings.redis_url is None and not settings.index_urls:
        raise SettingsError("without Redis the gateway needs HEADRACE_INDEX_URLS, e.g. http://127.0.0.1:8081")
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    """Start in the order of dependency, stop in reverse."""
    metrics = GatewayMetrics()
    bound = listen(settings.host, settings.port, "the gateway")
    link = RedisLink(settings)
    link.require()
    embedder = await asyncio.to_thread(load_embedder, settings, bulk=False)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    push = MetricsPush(settings, "search", metrics.registry)
    watchdog = Watchdog(settings.stall_timeout_s)
    queries = QueryEmbedder(embedder, settings.query_cache_entries, metrics, watchdog)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector) as session:
        registry = Registry(link, settings.collection)
        directory = Directory(settings.collection, registry, settings.index_urls, session, DeleteWatch(metrics))
        api = WorkerApi(session, settings.shard_timeout_ms)
        fanout, replicas = Fanout(directory, api), Replicas(directory, api)
        embed_workers = Registry(link, settings.collection, "embed").told
        lag = LagWatch(settings, directory)
        metrics.lag.read = lag.report
        gateway = Gateway(
            settings, directory, fanout, replicas, queries, lambda: link.state, embed_workers, metrics, lag.body
        )
        runner = web.AppRunner(gateway.application(), access_log=None, shutdown_timeout=_STOP_S, auto_decompress=False)
        await runner.setup()
        await web.SockSite(runner, bound).start()
        log.info("serving %s on http://%s:%d", settings.collection, *bound.getsockname()[:2])
        watchdog.start()
        lag.start()
        beating = asyncio.create_task(watchdog.beat())
        polling = asyncio.create_task(directory.run())
        stopping = asyncio.create_task(stop.wait())
        with watchdog.watch("asking the index workers", excuse=changing(lambda: directory.rounds)):
            done, _ = await asyncio.wait({polling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        polling.cancel()
        beating.cancel()
        lag.close()
        watchdog.stop()
        await runner.cleanup()
        queries.close()
        push.close()
        if polling in done:
            polling.result()
    link.close()
