"""`headrace index`: builds the parts of an index worker and runs it."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from typing import Any

import click
from aiohttp import web
from threadpoolctl import threadpool_limits

from app.cli.options import setting_flags
from app.freshness.objective import Objective
from app.freshness.traces import FreshnessTraces
from app.freshness.visibility import Visibility
from app.kafka.producer import MOST_BYTES, RecordProducer
from app.kafka.start import check_kafka
from app.kafka.watch import KafkaWatch
from app.observe.http import HttpThread, health_routes, listen
from app.observe.logs import set_up_logs
from app.observe.metrics import IndexMetrics, counts_by_label
from app.observe.push import MetricsPush
from app.observe.tracing import Tracing
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings, load_settings
from app.shard.memory import limit_arenas
from app.shard.serve import ShardServer
from app.shard.write_back import WriteBack
from app.watchdog import Watchdog
from consumers.faust_app import make_app, run_app, run_worker, services
from consumers.index.consumer import ShardConsumer
from consumers.index.worker import IndexWorker
from schemas.errors import SettingsError

log = logging.getLogger("headrace.index")

# a busy Python thread may hold up a query for this long; by default 5 ms (measured: query p50 5.6 ms, then 1.0 ms)
SWITCH_INTERVAL_S = 0.0005


@click.command()
@setting_flags("brokers", "collection", "redis_url", "replica", "data_dir", "index_port", "index_url", "log_level")
def index(**flags: Any) -> None:
    """Run an index worker: embedded documents in, searchable shards out.

    More workers share the partitions. Runs until SIGTERM or Ctrl-C; a restart continues where the files end.
    """
    settings = load_settings(**flags)
    set_up_logs(settings)
    run_worker(lambda stop: _run(settings, stop))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    """Start in the order of dependency, stop in reverse."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    limit_arenas()
    # a scan of a few thousand rows is over before a second thread of BLAS has started, and while it waits it spins
    threadpool_limits(1, user_api="blas")
    _check_data_dir(settings)
    metrics = IndexMetrics()
    bound = listen(settings.index_host, settings.index_port, "the index worker")
    link = RedisLink(settings)
    link.require()
    producer = RecordProducer(settings, f"{settings.collection}-index", max_bytes=MOST_BYTES)
    topics = await asyncio.to_thread(check_kafka, settings, producer)
    tracing = Tracing(settings, "index")
    push = MetricsPush(settings, "index", metrics.registry)
    url = settings.index_url or f"http://{settings.index_host}:{bound.getsockname()[1]}"
    # Faust's own assignor is sticky: shards stay where their files are
    app = make_app(settings, settings.index_group, topics, ShardConsumer, canonical_url=url)
    objective = Objective(settings.freshness_objective_ms, settings.freshness_objective_ratio)
    visibility = Visibility(
        FreshnessTraces(tracing, settings),
        objective,
        metrics,
        url,
        probe_one_in=settings.probe_one_in,
        probe_per_s=settings.probe_per_s,
        slow_per_s=settings.trace_slow_per_s,
    )
    registry = Registry(link, settings.collection)
    to_topics = WriteBack(settings, topics.epoch, producer, metrics)
    watchdog = Watchdog(settings.stall_timeout_s)
    kafka = KafkaWatch(producer, settings, topics, watchdog)
    worker = IndexWorker(settings, app, topics, registry, visibility, kafka, metrics, to_topics, watchdog, url)

    def describe() -> dict[str, Any]:
        return {
            "url": url,
            "collection": settings.collection,
            "replica": settings.replica,
            "partitions": topics.partitions,
            "freshness": visibility.told(),
            "checks": {
                "probes": counts_by_label(metrics.probes),
                "drift": metrics.shards.drift_by_shard(worker.shards.open),
            },
        }

    server = ShardServer(
        worker.shards, worker.recent, describe, lambda: worker.paused, metrics, watchdog, worker.deletes
    )
    application = web.Application(client_max_size=settings.max_request_bytes)
    application.add_routes(
        [*health_routes(lambda: worker.ready, lambda: services(link, kafka), metrics.registry), *server.routes()]
    )
    http = HttpThread(application, bound)
    http.start()
    watchdog.watch_loop(http.loop, "the event loop of HTTP")
    log.info("index worker of %s, replica %s: %s", settings.collection, settings.replica, url)
    watchdog.start()
    try:
        await run_app(app, worker.run, worker.drain, stop)
    finally:
        watchdog.stop()
        http.close()
        server.close()
        worker.close()
        producer.close()
        tracing.close()
        push.close()
        link.close()


def _check_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.data_dir):
            pass
    except OSError as error:
        raise SettingsError(
            f"HEADRACE_DATA_DIR={settings.data_dir}: {error.strerror}. It must be a folder that can be written."
        ) from error
