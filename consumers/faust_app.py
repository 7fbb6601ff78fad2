"""A Faust app as both workers need it, and running one inside an event loop of our own.

Every departure from Faust's defaults has its reason beside it; several of them are data loss in other clothes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import faust
import uvloop
from faust.auth import SASLCredentials, SSLCredentials
from faust.sensors.monitor import Monitor
from faust.transport.drivers import aiokafka as driver

from app.event import Event
from app.kafka.config import ssl_context
from app.kafka.topics import CollectionTopics
from app.kafka.watch import KafkaWatch
from app.redis_link import RedisLink
from app.settings import Settings
from consumers.worker_consumer import WorkerConsumer
from schemas.errors import Fatal, HeadraceError

log = logging.getLogger("headrace.worker")

TEN_YEARS_S = 3.15e8
STOP_DEADLINE_S = 10.0  # Kafka may be gone; then nothing that Faust waits for will come
CANCEL_DEADLINE_S = 5.0
_left_behind = threading.Event()  # a Faust that did not stop


class _QuietMonitor(Monitor):  # type: ignore[misc]
    """Faust's own statistics cost a fifth of its time an event, and lie with manual acknowledgement."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        return None

    on_message_in = on_message_out = on_stream_event_in = on_stream_event_out = _nothing
    on_topic_buffer_full = on_commit_initiated = on_commit_completed = _nothing


def make_app(
    settings: Settings, group: str, topics: CollectionTopics, consumer_type: type[WorkerConsumer], **options: Any
) -> faust.App:
    """An app for one worker process. Call inside the event loop that will run it."""

    class Transport(driver.Transport):  # type: ignore[misc]
        Consumer = consumer_type

    class App(faust.App):  # type: ignore[misc]
        collection = topics  # what its consumer asks for

        def _new_transport(self) -> Transport:
            return Transport(self.conf.broker_consumer, self)

    brokers = [f"aiokafka://{broker.strip()}" for broker in settings.brokers.split(",") if broker.strip()]
    session_s = settings.session_timeout_ms / 1000
    settings_of_app: dict[str, Any] = {
        "broker": brokers,
        "broker_credentials": _credentials(settings),
        "autodiscover": False,
        "web_enabled": False,
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        # by default a worker that fetches nothing for 1000 s leaves its group and never comes back
        "broker_max_poll_interval": TEN_YEARS_S,
        "broker_session_timeout": session_s,
        "broker_heartbeat_interval": session_s / 10,
        "broker_rebalance_timeout": 60.0,
        "broker_request_timeout": max(90.0, session_s),
        "broker_commit_interval": 1.0,
        # each poll crosses to the fetching thread and back: 500, the default, limited us to 3,000 events a second
        "broker_max_poll_records": 5000,
        "consumer_max_fetch_size": 4 * 2**20,
        "consumer_auto_offset_reset": "earliest",
        # a topic made again is noticed within seconds; by default after five minutes
        "consumer_metadata_max_age_ms": 5000,
        "stream_buffer_maxsize": 1024,
        # we drain ourselves, with a deadline; Faust's own wait has none
        "stream_wait_empty": False,
        "worker_redirect_stdouts": False,
        "Monitor": _QuietMonitor,
        "key_serializer": "raw",
        "value_serializer": "raw",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return App(group, **(settings_of_app | options))


def raw_topic(app: faust.App, name: str, **options: Any) -> Any:
    """A topic whose keys and values stay bytes: `value_type=bytes` alone would still decode JSON."""
    return app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", **options)


def as_event(message: Any, receipt: Any = None) -> Event:
    """Faust's message as ours; its timestamps are float seconds."""
    return Event(
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=message.headers or (),
        timestamp_ms=round((message.timestamp or 0) * 1000),
        consumed_ns=time.time_ns(),
        generation=message.generation_id,
        receipt=receipt,
    )


def is_current(app: faust.App, event: Event) -> bool:
    """Whether the event was fetched since the last rebalance; what was fetched before will be fetched again.

    One event may wait in the agent for room in the inbox while a rebalance empties everything else. Worked on, it
    would be ahead of those before it: they would be taken for old.
    """
    return bool(event.generation == app.consumer_generation_id)


async def run_app(
    app: faust.App, work: Callable[[], Awaitable[None]], drain: Callable[[], Awaitable[None]], stop: asyncio.Event
) -> None:
    """Run the app and `work` beside it until `stop` is set or one of them fails; then `drain`, if nothing failed.

    From here on SIGTERM and SIGINT set `stop`; before, the process holds nothing and simply ends (app.cli).
    Raises what failed. The app is stopped under a deadline; Faust sometimes hangs there, then the process exits.
    """
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app.finalize()
    tasks = {
        asyncio.create_task(_run_faust(app), name="faust"),
        asyncio.create_task(_as_coroutine(work), name="work"),
        asyncio.create_task(stop.wait(), name="stop"),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await drain()
    finally:
        await _stop(app, tasks)


async def _run_faust(app: faust.App) -> None:
    await app.start()
    await app.wait_until_stopped()
    if app.crash_reason is not None:
        raise app.crash_reason
    raise Fatal("Faust stopped by itself")


async def _as_coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def _stop(app: faust.App, tasks: set[asyncio.Task[Any]]) -> None:
    """Stop everything. A Faust that hangs is left behind: what was drained is safe, what was not is done again."""
    stopping = asyncio.ensure_future(app.stop())
    done, _ = await asyncio.wait({stopping}, timeout=STOP_DEADLINE_S)
    if not done:
        log.warning("Faust did not stop within %.0f s: ending without it", STOP_DEADLINE_S)
        _left_behind.set()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=CANCEL_DEADLINE_S)


def run_worker(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a worker's coroutine, which `run_app` ends. Errors of ours pass; others are logged and exit with 1.

    Where a hanging Faust was left behind the process ends as soon as the coroutine has closed what it holds: the
    loop would wait for Faust's tasks and thread.
    """

    async def supervised() -> None:
        status = 1
        try:
            await main(asyncio.Event())
            status = 0
        except Exception as error:
            if _left_behind.is_set():
                log.critical("stopped by %s: %s", type(error).__name__, error, exc_info=error)
            raise
        finally:
            if _left_behind.is_set():
                os._exit(status)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(supervised())
    except HeadraceError:
        raise
    except Exception as error:
        ours = _ours(error)
        if ours is not None:
            raise ours from error
        log.critical("stopped by %s: %s", type(error).__name__, error, exc_info=error)
        raise SystemExit(1) from error


def _ours(error: BaseException) -> HeadraceError | None:
    """The error of ours that ended a group of tasks, if one did."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _ours(inner)) is not None), None)
    return error if isinstance(error, HeadraceError) else None


def services(link: RedisLink, kafka: KafkaWatch) -> dict[str, str]:
    """For /readyz."""
    return {"kafka": "ok" if kafka.trouble is None else "unavailable", "redis": link.state}


def _credentials(settings: Settings) -> Any:
    context = ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None
        return SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password.get_secret_value(),
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return SSLCredentials(context=context) if context is not None else None
