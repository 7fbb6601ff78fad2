"""What we change of Faust, without a broker: how callbacks are awaited, events made, and an app run and stopped."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from mode.services import Service, WaitResults

from app.kafka.topics import CollectionTopics
from app.settings import Settings
from consumers.faust_app import as_event, is_current, make_app, run_app, run_worker, services
from consumers.worker_consumer import WorkerConsumer
from schemas.errors import Fatal, ShardCorrupt


class Consumer(WorkerConsumer):
    """Our consumer as a bare service, without Kafka behind it."""

    def __init__(self) -> None:
        Service.__init__(self)


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


async def test_a_callback_that_ends_at_once_is_run_without_a_task(consumer: Consumer) -> None:
    async def callback() -> str:
        return "done"

    async def other() -> None:
        raise AssertionError("never started")

    before = asyncio.all_tasks()
    running = callback()
    waiting = other()
    result = await consumer.wait_first(running, waiting)
    assert isinstance(result, WaitResults)
    assert (result.results, result.stopped) == (["done"], False)
    assert asyncio.all_tasks() == before


async def test_a_callback_that_has_to_wait_goes_on_where_it_was(consumer: Consumer) -> None:
    steps: list[str] = []
    gate = asyncio.Event()

    async def callback() -> str:
        steps.append("first")
        await gate.wait()
        await asyncio.sleep(0)
        steps.append("second")
        return "done"

    waiting = asyncio.create_task(consumer.wait_first(callback()))
    await asyncio.sleep(0)
    assert steps == ["first"]
    gate.set()
    result = await asyncio.wait_for(waiting, 5)
    assert (steps, result.results, result.stopped) == (["first", "second"], ["done"], False)


async def test_an_error_of_a_callback_comes_out_whether_at_once_or_later(consumer: Consumer) -> None:
    async def fails(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise ZeroDivisionError

    for wait in (False, True):
        with pytest.raises(ZeroDivisionError):
            await consumer.wait_first(fails(wait))


async def test_a_callback_that_waits_for_ever_ends_when_the_consumer_stops(consumer: Consumer) -> None:
    ended: list[str] = []

    async def callback() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    waiting = asyncio.create_task(consumer.wait_first(callback()))
    await asyncio.sleep(0)
    consumer._stopped.set()
    result = await asyncio.wait_for(waiting, 5)
    assert (result.stopped, ended) == (True, ["cancelled"])


def message(**changed: Any) -> Any:
    fields = {
        "partition": 1,
        "offset": 5,
        "key": b"k",
        "value": None,
        "headers": None,
        "timestamp": 1.5,
        "generation_id": 3,
    }
    return SimpleNamespace(**(fields | changed))


def test_a_message_becomes_an_event_with_its_time_in_milliseconds() -> None:
    event = as_event(message(), receipt="r")
    assert (event.partition, event.offset, event.key, event.value) == (1, 5, b"k", None)
    assert (event.headers, event.timestamp_ms, event.receipt) == ((), 1500, "r")
    assert event.consumed_ns > 0
    assert as_event(message(timestamp=None)).timestamp_ms == 0


def test_an_event_from_before_the_last_rebalance_is_not_current() -> None:
    event = as_event(message(generation_id=3))
    assert is_current(SimpleNamespace(consumer_generation_id=3), event)  # type: ignore[arg-type]
    assert not is_current(SimpleNamespace(consumer_generation_id=4), event)  # type: ignore[arg-type]


async def test_the_app_is_set_up_so_that_nothing_is_lost_or_declared_behind_our_back() -> None:
    settings = Settings(_env_file=None, brokers="a:1, b:2", session_timeout_ms=9000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app = make_app(settings, "group", CollectionTopics(4, "epoch"), WorkerConsumer)
        conf = app.conf
        assert [str(url) for url in conf.broker] == ["aiokafka://a:1", "aiokafka://b:2"]
        assert (conf.id, conf.broker_session_timeout, conf.broker_heartbeat_interval) == ("group", 9.0, 0.9)
        assert (conf.topic_allow_declare, conf.topic_disable_leader, conf.web_enabled) == (False, True, False)
        assert conf.broker_max_poll_interval > 3e7
        assert conf.consumer_auto_offset_reset == "earliest"
        assert conf.stream_wait_empty is False
        assert app._new_transport().Consumer is WorkerConsumer
        assert app._consumer is None


class FakeApp:
    """Starts, and stops when it is told to or by itself."""

    def __init__(self, crash: Exception | None = None, by_itself: bool = False) -> None:
        self.crash_reason = crash
        self.stopped = asyncio.Event()
        self.log: list[str] = []
        if crash is not None or by_itself:
            self.stopped.set()

    def finalize(self) -> None:
        self.log.append("finalize")

    async def start(self) -> None:
        self.log.append("start")

    async def wait_until_stopped(self) -> None:
        await self.stopped.wait()

    async def stop(self) -> None:
        self.log.append("stop")
        self.stopped.set()


async def _run(app: FakeApp, stop: asyncio.Event, work: Any = None) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def drain() -> None:
        app.log.append("drain")

    await asyncio.wait_for(run_app(app, work or forever, drain, stop), 10)  # type: ignore[arg-type]


async def test_when_told_to_stop_the_worker_drains_before_faust_is_stopped() -> None:
    app, stop = FakeApp(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    await _run(app, stop)
    assert app.log == ["finalize", "start", "drain", "stop"]


async def test_an_error_of_the_work_stops_faust_without_draining_and_comes_out() -> None:
    async def fails() -> None:
        raise ShardCorrupt("damaged")

    app = FakeApp()
    with pytest.raises(ShardCorrupt, match="damaged"):
        await _run(app, asyncio.Event(), fails)
    assert app.log[-1] == "stop"
    assert "drain" not in app.log


async def test_what_crashed_faust_comes_out_and_its_silent_end_is_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        await _run(FakeApp(crash=ZeroDivisionError()), asyncio.Event())
    with pytest.raises(Fatal, match="stopped by itself"):
        await _run(FakeApp(by_itself=True), asyncio.Event())


def test_the_services_that_a_worker_uses_are_told_for_readyz() -> None:
    link, kafka = SimpleNamespace(state="unavailable"), SimpleNamespace(trouble=None)
    assert services(link, kafka) == {"kafka": "ok", "redis": "unavailable"}  # type: ignore[arg-type]
    kafka.trouble = "away"
    assert services(link, kafka)["kafka"] == "unavailable"  # type: ignore[arg-type]


def test_an_error_of_ours_inside_a_group_of_tasks_comes_out_as_itself() -> None:
    async def main(_: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            outer.create_task(asyncio.sleep(60))
            inner.create_task(_fails(ShardCorrupt("it is damaged")))

    with pytest.raises(ShardCorrupt, match="it is damaged"):
        run_worker(main)


def test_another_error_is_logged_and_ends_with_status_1() -> None:
    async def main(_: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_fails(ZeroDivisionError()))

    with pytest.raises(SystemExit) as ended:
        run_worker(main)
    assert ended.value.code == 1


async def _fails(error: Exception) -> None:
    raise error


HANGING = """
import asyncio
from consumers import faust_app
faust_app.STOP_DEADLINE_S = 0.1

class Hanging:
    crash_reason = None
    def finalize(self): pass
    async def start(self): pass
    async def wait_until_stopped(self): await asyncio.Event().wait()
    async def stop(self): await asyncio.Event().wait()

async def work():
    if FAILS:
        raise ValueError("of the work")
    await asyncio.Event().wait()

async def drain(): pass

async def main(stop):
    asyncio.get_running_loop().call_later(0.1, stop.set)
    try:
        await faust_app.run_app(Hanging(), work, drain, stop)
    finally:
        print("spans and metrics are sent", flush=True)

faust_app.run_worker(main)
"""


@pytest.mark.parametrize(("fails", "status"), [(False, 0), (True, 1)])
def test_a_faust_that_does_not_stop_is_left_behind_at_the_deadline_once_all_is_sent(fails: bool, status: int) -> None:
    program = HANGING.replace("FAILS", str(fails))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (status, "spans and metrics are sent\n"), ended.stderr
    assert ("of the work" in ended.stderr) == fails
