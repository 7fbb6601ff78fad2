"""A Faust app as both workers need it, and running one inside an event loop of our own.

Every departure from Faust's defaults has its reason beside it; several of them are data loss in other clothes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
import types
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from functools import partial
from typing import Any

import faust
import uvloop
from faust.auth import SASLCredentials, SSLCredentials
from faust.sensors.monitor import Monitor
from faust.transport.drivers import aiokafka as driver
from mode.services import WaitResults

from app.crash import crash_point
from app.event import Event
from app.kafka.config import ssl_context
from app.kafka.lease import GroupLease
from app.kafka.watch import KafkaWatch
from app.redis_link import RedisLink
from app.settings import Settings
from consumers import silence
from consumers.unreadable import UnreadableRecords
from schemas.errors import Fatal, HeadraceError

log = logging.getLogger("headrace.worker")

TEN_YEARS_S = 3.15e8
STOP_DEADLINE_S = 10.0  # Kafka may be gone; then nothing that Faust waits for will come
_COMMIT_S = 5.0
# One fetch is under way at a time: a partition that has just been drained waits behind the long poll of the quiet
# ones. At 20 ms an idle worker asks 50 times a second, which costs it about 2 % of a core.
_FETCH_MAX_WAIT_MS = 20


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    async def on_start(self) -> None:
        """Let every heartbeat that the group answers renew the lease; the first one goes out at once after joining."""
        await super().on_start()
        silence.attach(self._consumer)
        self.consumer.unreadable.attach(self._consumer)
        coordinator, lease = self._consumer._coordinator, self.consumer.lease
        heartbeat, rejoin = coordinator._do_heartbeat, coordinator._do_rejoin_group

        async def renewing() -> bool:
            sent_s = lease.begin()
            answered = bool(await heartbeat())
            if answered:
                lease.renew(sent_s)
            return answered

        async def rejoining(subscription: Any) -> bool:
            joined = bool(await rejoin(subscription))
            if joined:
                await renewing()
            return joined

        coordinator._do_heartbeat, coordinator._do_rejoin_group = renewing, rejoining

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for this, and waits 1500 ms: gaps of 0.6 s were measured
        consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS
        consumer._isolation_level = "read_committed"  # what a producer's transaction took back was never a change
        return consumer


class WorkerConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer with a shorter long poll; remembers where reading started.

    lease: how long its partitions are surely its own. unreadable: those of them that Kafka cannot give.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_offsets: dict[int, int] = {}
        self.lease = GroupLease(self.app.conf.broker_session_timeout)
        self.unreadable = UnreadableRecords()

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        """Faust awaits each record's callback through this, in four tasks; it nearly always ends at once.

        So run the callback a first step here, and leave to Faust what really has to wait. Measured: 1.4 times the
        events a second.
        """
        callback = coros[0]
        if not asyncio.iscoroutine(callback) or self._stopped.is_set() or self._crashed.is_set():
            return await super().wait_first(*coros, timeout=timeout)
        try:
            waits_for = callback.send(None)
        except StopIteration as done:
            for coro in coros[1:]:
                coro.close()
            return WaitResults([callback], [done.value], False)
        return await super().wait_first(_rest(callback, waits_for), *coros[1:], timeout=timeout)

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        """As Faust does it."""
        committed = bool(await super().commit(*args, **kwargs))
        if committed:
            crash_point("embed.committed")
        return committed

    def _new_offset(self, tp: Any) -> int | None:
        """One past the last acknowledged event: they are acknowledged in offset order, so all before it are done.

        Faust looks for gaps, with bounds that are off by one: it commits past an event in flight, and gets past one
        gap of a compacted log a commit.
        """
        acked = self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return max(acked) + 1 if acked else None

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Nothing: no gap is looked for."""

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Commit first: Faust forgets what was acknowledged before it tells anybody, and all of it would come again."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.commit(), _COMMIT_S)
        await super().on_partitions_revoked(revoked)

    def on_buffer_full(self, tp: Any) -> None:
        """Nothing: a full buffer holds up the delivery of the next event anyhow.

        Faust would stop fetching as well, and sleep a whole second once every partition is full. Measured: twice the
        events a second without.
        """

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, and keep them: what lies before them has been dealt with.

        Events that Kafka has deleted since are lost, which Faust would not say: reading begins with the first there is.
        """
        await super().perform_seek()
        committed = {tp: offset or 0 for tp, offset in self._read_offset.items()}
        ours = list(committed)
        first, end = await asyncio.gather(self.earliest_offsets(*ours), self.highwaters(*ours)) if ours else ({}, {})
        for tp, offset in committed.items():
            if offset < first[tp]:
                log.error(
                    "%s %d: events %d to %d were deleted by Kafka before they were read: what they said of their "
                    "documents is lost. Publish those again, and give the topic more retention.",
                    *(tp.topic, tp.partition, offset, first[tp] - 1),
                )
        await self._read_anew({tp: first[tp] for tp, offset in committed.items() if offset > end[tp]}, end)
        self.start_offsets = {tp.partition: offset or 0 for tp, offset in self._read_offset.items()}

    async def _read_anew(self, shorter: dict[Any, int], end: Mapping[Any, int]) -> None:
        """Go back to the first event of logs that are shorter than what was read: Faust would drop all up to there."""
        if not shorter:
            return
        for tp in shorter:
            log.error(
                "%s %d was read up to offset %d and ends at %d now: Kafka has lost events. Reading again from its "
                "beginning; publish again what was published last.",
                *(tp.topic, tp.partition, self._read_offset[tp], end[tp]),
            )
        await self.seek_wait(shorter)
        for tp, offset in shorter.items():
            self._read_offset[tp] = offset or None
            self._committed_offset.pop(tp, None)


async def _rest(callback: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    return await _resumed(callback, waits_for)


@types.coroutine
def _resumed(callback: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine whose first step has been run, and has given `waits_for` to the event loop."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001 - cancellation and all: it belongs to the coroutine
            step = partial(callback.throw, error)
        else:
            step = partial(callback.send, sent)
        try:
            waits_for = step()
        except StopIteration as done:
            return done.value


class _QuietMonitor(Monitor):  # type: ignore[misc]
    """Faust's own statistics cost a fifth of its time an event, and lie with manual acknowledgement."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        return None

    on_message_in = on_message_out = on_stream_event_in = on_stream_event_out = _nothing
    on_topic_buffer_full = on_commit_initiated = on_commit_completed = _nothing


def make_app(settings: Settings, group: str, consumer_type: type[WorkerConsumer], **options: Any) -> faust.App:
    """An app for one worker process. Call inside the event loop that will run it."""

    class Transport(driver.Transport):  # type: ignore[misc]
        Consumer = consumer_type

    class App(faust.App):  # type: ignore[misc]
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
        await _stop(app, tasks, asked=stop.is_set())


async def _run_faust(app: faust.App) -> None:
    await app.start()
    await app.wait_until_stopped()
    if app.crash_reason is not None:
        raise app.crash_reason
    raise Fatal("Faust stopped by itself")


async def _as_coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def _stop(app: faust.App, tasks: set[asyncio.Task[Any]], *, asked: bool) -> None:
    stopping = asyncio.ensure_future(app.stop())
    done, _ = await asyncio.wait({stopping}, timeout=STOP_DEADLINE_S)
    if not done:
        log.warning("Faust did not stop within %.0f s: exiting without it", STOP_DEADLINE_S)
        os._exit(0 if asked else 1)  # what was drained is safe, what was not is done again
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run_worker(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a worker's coroutine, which `run_app` ends. Errors of ours pass; others are logged and exit with 1."""

    async def supervised() -> None:
        await main(asyncio.Event())

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
