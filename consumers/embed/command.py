"""`headrace embed`: builds the parts of an embed worker and runs it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import click
from aiohttp import web

from app.cli.options import setting_flags
from app.embed.applied import RedisApplied
from app.embed.attempts import Attempts
from app.embed.cache import Caches, TextCache
from app.embed.chunks import ChunkEmbedder
from app.embed.claims import Claims
from app.embed.economics import Economics
from app.embed.pipeline import HEADER_ROOM_BYTES, EmbedPipeline
from app.embed.records import RecordFactory
from app.embed.spans import BatchSpans
from app.embed.status import EmbedStatus
from app.kafka.producer import MOST_BYTES, RecordProducer
from app.kafka.start import check_kafka
from app.kafka.watch import KafkaWatch
from app.model.chunker import Chunker
from app.model.embedder import Embedder
from app.model.load import load_embedder
from app.observe.http import HttpThread, health_routes, json_response, listen
from app.observe.logs import set_up_logs
from app.observe.metrics import EmbedMetrics
from app.observe.push import MetricsPush
from app.observe.tracing import Tracing
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings, load_settings
from app.watchdog import Watchdog
from consumers.embed.worker import EmbedWorker
from consumers.faust_app import make_app, run_app, run_worker, services
from consumers.worker_consumer import WorkerConsumer

log = logging.getLogger("headrace.embed")


@click.command()
@setting_flags("brokers", "collection", "redis_url", "model", "runtime", "precision", "embed_port", "log_level")
def embed(**flags: Any) -> None:
    """Run an embed worker: changes in, embedded documents out. More workers share the partitions.

    Runs until SIGTERM or Ctrl-C, then finishes the batch in flight.
    """
    settings = load_settings(**flags)
    set_up_logs(settings)
    run_worker(lambda stop: _run(settings, stop))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    """Start in the order of dependency, stop in reverse."""
    metrics = EmbedMetrics()
    bound = listen(settings.embed_host, settings.embed_port, "the embed worker")
    link = RedisLink(settings)
    link.require()
    # what comes in compressed may be larger than the limit, and must fit into a dead letter: the topic's limit decides
    producer = RecordProducer(settings, f"{settings.collection}-embed", linger_ms=0, max_bytes=MOST_BYTES)
    topics = await asyncio.to_thread(check_kafka, settings, producer)
    economics = Economics(metrics)
    embedder = await asyncio.to_thread(load_embedder, settings, observe=economics.ran)
    tracing = Tracing(settings, "embed")
    push = MetricsPush(settings, "embed", metrics.registry)
    records = RecordFactory(
        settings.changes_topic, settings.vectors_topic, settings.dlq_topic, topics.epoch, embedder.fingerprint
    )
    pipeline = EmbedPipeline(
        _chunks(settings, link, embedder, economics, alone=lambda: len(worker.owned) == topics.partitions),
        link,
        RedisApplied(link, settings.collection, topics.epoch, settings.applied_ttl_hours),
        records,
        producer,
        BatchSpans(tracing, settings.changes_topic, settings.embed_group),
        metrics,
        max_text_bytes=settings.max_text_bytes,
        max_record_bytes=settings.max_record_bytes - HEADER_ROOM_BYTES,
    )
    # round robin: the partitions of this group carry no state, so it does not matter who has them
    app = make_app(settings, settings.embed_group, topics, WorkerConsumer, table_standby_replicas=0)
    watchdog = Watchdog(settings.stall_timeout_s)
    kafka = KafkaWatch(producer, settings, topics, watchdog)
    worker = EmbedWorker(settings, app, pipeline, records, producer, kafka, metrics, watchdog)
    metrics.redis_failures.set_function(lambda: float(link.failures))
    application = web.Application()
    application.add_routes(health_routes(lambda: worker.ready, lambda: services(link, kafka), metrics.registry))
    # a container has a host name of its own, a machine may run several workers
    name = f"{socket.gethostname()}:{bound.getsockname()[1]}"
    status = EmbedStatus(name, embedder, link, metrics, lambda: worker.ready, lambda: worker.owned)
    application.add_routes([web.get("/status", _answering(status))])
    http = HttpThread(application, bound)
    http.start()
    watchdog.watch_loop(http.loop, "the event loop of HTTP")
    log.info("embed worker of %s: /readyz on %s:%d", settings.collection, settings.embed_host, http.port)
    registry = Registry(link, settings.collection, "embed")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            group.create_task(status.announce(registry, watchdog))

    watchdog.start()
    try:
        await run_app(app, work, worker.drain, stop)
    finally:
        watchdog.stop()
        producer.close()
        tracing.close()
        push.close()
        link.close()
        http.close()


def _chunks(
    settings: Settings, link: RedisLink, embedder: Embedder, economics: Economics, alone: Callable[[], bool]
) -> ChunkEmbedder:
    """Cuts are a tenth of the size of vectors, and depend on the size of the chunks as well."""
    room_bytes, ttl_hours, model = settings.cache_memory_mb * 2**20, settings.cache_ttl_hours, embedder.fingerprint
    vectors = TextCache(link, "vector", f"{model}/{settings.vector_storage}", room_bytes * 9 // 10, ttl_hours)
    cuts = TextCache(
        link,
        "cut",
        f"{model}/{settings.max_chunk_tokens}/{settings.embeddings_tokenizer or ''}",
        room_bytes // 10,
        ttl_hours,
    )
    return ChunkEmbedder(
        embedder,
        Chunker(embedder.tokenizer, settings.max_chunk_tokens),
        Caches(link, vectors, cuts),
        Claims(link, vectors, alone),
        economics,
        settings.vector_storage,
        Attempts(link, settings.collection, vectors),
    )


def _answering(status: EmbedStatus) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return json_response(status.body())

    return answer
