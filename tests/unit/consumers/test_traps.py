"""The traps of Faust that lose or hide events, each sprung under our workers on the real Faust, without Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from faust.types import TP

from app.embed.records import RecordFactory
from app.event import Event
from app.kafka.topics import CollectionTopics
from app.observe.metrics import EmbedMetrics
from app.settings import Settings
from app.watchdog import Watchdog
from consumers import worker_consumer
from consumers.embed import worker as embed_worker
from consumers.embed.worker import EmbedWorker
from consumers.faust_app import make_app
from consumers.joining import joining
from consumers.worker_consumer import WorkerConsumer, _ConsumerThread
from schemas.errors import PartitionsChanged
from tests.unit.consumers.broker import Broker, app_on, started
from tests.unit.consumers.parts import until
from tests.unit.consumers.test_embed_worker import Pipeline
from tests.unit.embed.parts import LogProducer, raw_event


def kafka() -> Any:
    return SimpleNamespace(trouble=None, run=asyncio.Event().wait)


class Failing(Pipeline):
    """Breaks for good at an offset."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at = at
        self.seen: list[Event] = []

    def process(self, events: Sequence[Event], owns: Any, first: Mapping[int, int] | None = None) -> set[int]:
        if any(event.offset == self.at for event in events):
            raise ZeroDivisionError
        done = super().process(events, owns, first)
        self.seen += [event for event in events if event.partition in done]
        return done

    @property
    def offsets(self) -> list[int]:
        return [event.offset for event in self.seen]


class Embed:
    """An embed worker with batches of one event."""

    def __init__(
        self, broker: Broker, pipeline: Failing, topics: CollectionTopics | None = None, **options: Any
    ) -> None:
        settings = Settings(_env_file=None, watermark_interval_ms=60_000, batch_max_documents=1, inbox_max_events=8)
        self.broker, self.pipeline = broker, pipeline
        self.app = app_on(broker, settings, WorkerConsumer, topics, table_standby_replicas=0, **options)
        records = RecordFactory("d.changes", "d.vectors", "d.dlq", "epoch", "m")
        parts: Any = (self.app, pipeline, records, LogProducer(), kafka(), EmbedMetrics(), Watchdog(0))
        self.worker = EmbedWorker(settings, *parts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        async with started(self.app):
            working = asyncio.create_task(self.worker.run())
            try:
                yield working
            finally:
                self.pipeline.gate.set()
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                self.worker._thread.shutdown()

    def committed(self) -> dict[int, int]:
        return {tp.partition: offset for tp, offset in self.broker.committed.items()}


def changes(*offsets: int, value: bytes | None = b"{}") -> list[Event]:
    return [raw_event(offset, b"k", value) for offset in offsets]


def embed(*events: Event, at: int | None = None, **options: Any) -> Embed:
    broker = Broker("documents.changes", 0)
    broker.write(*events)
    return Embed(broker, Failing(at), **options)


async def test_a_batch_that_breaks_the_worker_is_never_committed_past() -> None:
    parts = embed(*changes(*range(6)), at=3)
    async with parts.running() as working:
        await asyncio.wait([working], timeout=10)
        assert isinstance(working.exception(), ExceptionGroup)
    assert (parts.pipeline.offsets, parts.committed()) == ([0, 1, 2], {0: 3})


async def test_an_agent_that_fails_ends_the_app_and_its_event_is_never_committed_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = embed()
    put = parts.worker._inbox.put

    async def fails(event: Event) -> None:
        if event.offset == 3:
            raise ZeroDivisionError
        await put(event)

    monkeypatch.setattr(parts.worker._inbox, "put", fails)
    async with parts.running():
        parts.broker.write(*changes(*range(6)))
        await until(lambda: parts.app.crash_reason is not None, 10)
        assert isinstance(parts.app.crash_reason, ZeroDivisionError)
    assert parts.committed().get(0, 0) <= 3


async def test_offsets_that_were_compacted_away_neither_hold_up_commits_nor_let_them_run_ahead() -> None:
    parts = embed()
    async with parts.running():
        parts.broker.write(*changes(100, 105, 106, 109))
        parts.pipeline.gate.clear()
        await until(lambda: parts.pipeline.batches)
        await parts.app.consumer.commit()
        assert parts.committed() == {}
        parts.pipeline.gate.set()
        await until(lambda: parts.pipeline.offsets == [100, 105, 106, 109] and parts.worker._idle.is_set())
        await parts.app.consumer.commit()
        assert parts.committed()[0] == 110


async def test_one_commit_gets_past_any_number_of_compacted_offsets() -> None:
    offsets = list(range(7, 400, 2))
    parts = embed(*changes(*offsets), broker_commit_interval=3600.0)
    async with parts.running():
        await until(lambda: parts.pipeline.offsets == offsets and parts.worker._idle.is_set(), 20)
        await parts.app.consumer.commit()
        assert parts.committed() == {0: 400}


async def test_an_event_that_waits_for_room_during_a_rebalance_does_not_get_ahead_of_those_before_it() -> None:
    """The inbox is emptied then, so there is room: worked on, its acknowledgement would stand for all before it."""
    parts = embed()
    commit = parts.broker.commit

    async def slow_commit(offsets: Mapping[Any, int]) -> bool:
        await asyncio.sleep(0.1)
        return await commit(offsets)

    parts.broker.commit = slow_commit  # type: ignore[method-assign]
    async with parts.running():
        parts.pipeline.gate.clear()
        parts.broker.write(*changes(*range(30)))
        await until(lambda: not parts.worker._inbox._room.is_set() and parts.pipeline.batches)
        await asyncio.sleep(0.05)  # until the agent waits
        rebalance = asyncio.create_task(parts.broker.rebalance(0))
        await until(lambda: parts.worker._leaving)
        parts.pipeline.gate.set()
        await asyncio.wait_for(rebalance, 10)
        await until(lambda: 29 in parts.pipeline.offsets)
        assert parts.pipeline.offsets == list(range(30))


async def test_what_was_acknowledged_is_committed_before_a_rebalance_forgets_it() -> None:
    parts = embed(*changes(*range(5)), broker_commit_interval=3600.0)
    async with parts.running():
        await until(lambda: len(parts.pipeline.seen) == 5 and parts.worker._idle.is_set())
        assert parts.committed() == {}
        await parts.broker.rebalance(0)
        assert parts.committed() == {0: 5}
        parts.broker.write(*changes(5))
        await until(lambda: 5 in parts.pipeline.offsets)
        assert parts.pipeline.offsets == [0, 1, 2, 3, 4, 5]


async def test_a_log_that_is_shorter_than_what_was_committed_is_read_from_its_beginning_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = embed(*changes(*range(3)))
    parts.broker.committed[parts.broker.tps[0]] = 500
    async with parts.running():
        await until(lambda: parts.pipeline.offsets == [0, 1, 2])
        parts.broker.write(*changes(3))
        await until(lambda: parts.pipeline.offsets == [0, 1, 2, 3] and parts.worker._idle.is_set())
        await parts.app.consumer.commit()
        assert parts.committed() == {0: 4}
    assert "was read up to offset 500 and ends at 3 now" in caplog.text


async def test_events_deleted_before_they_were_read_are_told_and_the_rest_is_read_and_committed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = embed(*changes(*range(10)))
    (tp,) = parts.broker.tps.values()
    parts.broker.committed[tp], parts.broker.first[tp] = 2, 6
    async with parts.running():
        await until(lambda: parts.pipeline.offsets == [6, 7, 8, 9] and parts.worker._idle.is_set())
        await parts.app.consumer.commit()
        assert parts.committed() == {0: 10}
    assert "events 2 to 5 were deleted by Kafka before they were read" in caplog.text


@asynccontextmanager
async def a_fetch_that_outlives_a_rebalance(parts: Embed) -> AsyncIterator[asyncio.Task[None]]:
    """At the end of the block it brings records, while reading is stopped yet."""
    fetches = parts.broker.fetches
    parts.broker.answers.clear()
    await until(lambda: parts.broker.fetches > fetches)
    parts.broker.gate.clear()
    rebalance = asyncio.create_task(parts.broker.rebalance(0))
    await until(lambda: not parts.app.consumer.flow_active)
    yield rebalance
    parts.broker.answers.set()


@pytest.mark.parametrize("committed", [None, 0, 2])
async def test_what_a_fetch_that_outlives_a_rebalance_brings_is_read_again_though_nothing_was_committed(
    committed: int | None,
) -> None:
    """Faust drops it and seeks to what was committed: where nothing was, it would go on behind what it dropped."""
    parts = embed()
    (tp,) = parts.broker.tps.values()
    async with parts.running():
        async with a_fetch_that_outlives_a_rebalance(parts) as rebalance:
            if committed is not None:
                parts.broker.committed[tp] = committed
            parts.broker.write(*changes(*range(5)))
        await asyncio.sleep(0.05)  # until it has been dropped
        parts.broker.gate.set()
        await asyncio.wait_for(rebalance, 10)
        parts.broker.write(*changes(5))
        await until(lambda: 5 in parts.pipeline.offsets)
        assert parts.pipeline.offsets == list(range(committed or 0, 6))


async def test_a_seek_that_fails_after_records_were_dropped_is_done_again_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Faust warns of it and goes on where it is."""
    parts = embed()
    seek, failed = parts.broker.seek_wait, []

    async def failing_second(target: Mapping[Any, int]) -> None:
        await seek(target)
        if len(parts.broker.sought) == sought + 2:
            failed.append(target)
            raise ConnectionError("Kafka is away")

    async with parts.running():
        sought = len(parts.broker.sought)
        monkeypatch.setattr(parts.broker, "seek_wait", failing_second)
        async with a_fetch_that_outlives_a_rebalance(parts) as rebalance:
            parts.broker.write(*changes(*range(5)))
        await asyncio.sleep(0.05)
        parts.broker.gate.set()
        await asyncio.wait_for(rebalance, 10)
        await until(lambda: 4 in parts.pipeline.offsets)
        assert failed
        assert parts.pipeline.offsets == list(range(5))


async def test_nothing_is_delivered_to_a_worker_that_had_no_partitions_before_the_seek(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Faust stops reading only where it takes something away: such a worker goes on, and gets ahead of its seek."""
    parts = embed(*changes(0), broker_commit_interval=3600.0)
    async with parts.running():
        await until(lambda: parts.pipeline.offsets == [0] and parts.worker._idle.is_set())
        await parts.broker.rebalance()  # none
        await until(lambda: not parts.app.rebalancing)
        parts.pipeline.seen.clear()
        parts.broker.write(*changes(*range(1, 300)))
        parts.broker.gate.clear()  # the seek takes a moment
        on_rebalance = parts.app.agents.on_rebalance

        async def slow(*args: Any, **options: Any) -> None:  # the loop is busy: a fetch would be answered meanwhile
            await asyncio.sleep(1.2)
            await on_rebalance(*args, **options)

        monkeypatch.setattr(parts.app.agents, "on_rebalance", slow)
        await asyncio.wait_for(parts.broker.rebalance(0), 10)
        await asyncio.sleep(0.1)
        await parts.app.consumer.commit()
        assert parts.committed() == {0: 1}
        parts.broker.gate.set()
        await until(lambda: 299 in parts.pipeline.offsets)
        assert parts.pipeline.offsets == list(range(1, 300))


async def test_what_was_committed_in_another_life_of_the_topic_is_no_place_in_this_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Kafka takes a commit for any topic of that name, also what a worker still had of the one before."""
    parts = embed(*changes(*range(10)))
    async with parts.running():
        await until(lambda: 9 in parts.pipeline.offsets and parts.worker._idle.is_set())
    broker = Broker("documents.changes", 0)
    broker.committed, broker.marks = dict(parts.broker.committed), dict(parts.broker.marks)
    assert list(broker.committed.values()) == [10]
    broker.write(*changes(*range(50)))
    again = Embed(broker, Failing(), CollectionTopics(1, "the next"))
    async with again.running():
        await until(lambda: 49 in again.pipeline.offsets, 10)
        assert again.pipeline.offsets == list(range(50))
    assert "offset 10 was committed in another life of the topic" in caplog.text


async def test_more_partitions_than_the_collection_began_with_end_the_worker() -> None:
    parts = embed(*changes(*range(10)))
    async with parts.running():
        await until(lambda: 9 in parts.pipeline.offsets and parts.worker._idle.is_set())
    again = Embed(parts.broker, Failing(), CollectionTopics(2, "epoch"))
    with pytest.raises(TimeoutError):
        async with again.running():
            pass
    assert isinstance(again.app.crash_reason, PartitionsChanged)
    assert again.pipeline.offsets == []


async def test_a_log_that_was_cut_while_it_is_read_is_read_again() -> None:
    """aiokafka goes back to its beginning, and Faust drops what comes up to where it was."""
    parts = embed(*changes(*range(10)))
    (tp,) = parts.broker.tps.values()
    async with parts.running():
        await until(lambda: parts.pipeline.offsets == list(range(10)) and parts.worker._idle.is_set())
        del parts.broker.records[tp][7:]
        parts.broker.end[tp] = 7
        parts.broker.write(*changes(7, 8, value=b'{"new": 1}'))
        assert await parts.worker._due_watermarks() == {}
        await until(lambda: [event.offset for event in parts.pipeline.seen if event.value == b'{"new": 1}'] == [7, 8])


@pytest.mark.parametrize("ends", ["the worker", "the assignment"])
async def test_a_commit_that_hangs_holds_up_neither_the_end_nor_a_rebalance(
    monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """One that is cut off makes Faust begin another one, which nothing limits."""
    for module, name in ((embed_worker, "COMMIT_S"), (worker_consumer, "_COMMIT_S")):
        monkeypatch.setattr(module, name, 0.2)
    parts = embed(*changes(*range(5)), broker_commit_interval=3600.0)
    asked, forever = list[Any](), asyncio.Event()

    async def hangs(offsets: Any) -> bool:
        asked.append(offsets)
        await forever.wait()
        return True

    async with parts.running():
        await until(lambda: len(parts.pipeline.seen) == 5 and parts.worker._idle.is_set())
        monkeypatch.setattr(parts.broker, "commit", hangs)
        first = asyncio.create_task(parts.app.consumer.commit())  # as Faust does every second
        await until(lambda: asked)
        parts.broker.write(*changes(5))
        await until(lambda: 5 in parts.pipeline.offsets and parts.worker._idle.is_set())
        ending = parts.worker.drain() if ends == "the worker" else parts.broker.rebalance(0)
        await asyncio.wait_for(ending, 5)
        forever.set()
        await first


async def test_no_value_no_key_and_no_json_come_to_the_worker_as_they_are() -> None:
    strange = [
        raw_event(0, b"k", None),
        raw_event(1, None, b"\xff\x00"),
        raw_event(2, b"\xff", b"", headers=[("a", b"1"), ("a", b"2")]),
    ]
    parts = embed(*strange)
    async with parts.running():
        await until(lambda: len(parts.pipeline.seen) == 3)
    for came, sent in zip(parts.pipeline.seen, strange, strict=True):
        assert (came.key, came.value, came.headers) == (sent.key, sent.value, sent.headers)
        assert came.timestamp_ms == sent.timestamp_ms


async def test_more_events_than_the_stream_buffer_holds_all_come_in_order() -> None:
    parts = embed(*changes(*range(300)), stream_buffer_maxsize=16)
    async with parts.running():
        await until(lambda: len(parts.pipeline.seen) == 300, 20)
    assert parts.pipeline.offsets == list(range(300))


async def test_a_seek_that_takes_longer_than_faust_waits_for_it_ends_the_worker_instead_of_leaving_it_idle() -> None:
    """Faust's recovery ends for ever then, and says nothing: the rebalance never ends."""
    parts = embed(*changes(0), broker_request_timeout=0.05)
    now, ended = [0.0], list[str]()
    watchdog = Watchdog(300, lambda: now[0], ended.append)
    with joining(watchdog, parts.app, kafka(), lambda: True):
        async with parts.running():
            await until(lambda: parts.pipeline.seen)
            watchdog.look()
            parts.broker.gate.clear()
            await parts.broker.rebalance(0)
            await asyncio.sleep(0.2)  # longer than it waits
            parts.broker.gate.set()
            await asyncio.sleep(0.05)
            assert parts.app.rebalancing
            now[0] = 301
            watchdog.look()
    assert len(ended) == 1
    assert ended[0].startswith("joining the consumer group has taken 301 s")


class WithoutLeader:
    """An AIOKafkaConsumer of three partitions, of which one has a leader; what is asked of others is not answered."""

    def __init__(self) -> None:
        cluster = ClusterMetadata()
        cluster._partitions = {"t": {0: SimpleNamespace(leader=1), 1: SimpleNamespace(leader=-1)}}
        self._client = SimpleNamespace(cluster=cluster)
        self.cancelled = 0

    async def position(self, tp: TP) -> int:
        try:
            await asyncio.sleep(0 if tp.partition == 0 else 3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return 7

    async def beginning_offsets(self, tps: Sequence[TP]) -> dict[TP, int]:
        return {tp: await self.position(tp) for tp in tps}

    end_offsets = beginning_offsets

    async def seek_to_committed(self) -> str:
        return "what goes through the queue"

    async def stop(self) -> None:
        return None


async def test_questions_about_a_partition_without_a_leader_hold_up_neither_fetches_nor_commits() -> None:
    """Faust's thread works on two calls at a time, and aiokafka asks again for 90 s."""
    kafka = WithoutLeader()

    class Thread(_ConsumerThread):
        async def on_start(self) -> None:
            self._consumer = kafka

    class Consumer(WorkerConsumer):
        def _new_consumer_thread(self) -> _ConsumerThread:
            return Thread(self, loop=self.loop, beacon=self.beacon)

    app = make_app(Settings(_env_file=None), "group", CollectionTopics(1, "epoch"), Consumer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app.finalize()
    thread = app.consumer._thread
    zero, one, two = (TP("t", number) for number in range(3))
    await thread.start()
    try:
        questions = (thread.earliest_offsets(zero, one), thread.highwaters(one), thread.position(two))
        unanswered = [asyncio.create_task(question) for question in questions]
        done, _ = await asyncio.wait(unanswered, timeout=0.1)
        assert not done
        async with asyncio.timeout(5):
            assert await thread.seek_to_committed() == "what goes through the queue"
            assert await thread.highwaters(zero) == {zero: 7}
        assert thread.leaderless([zero, one, two]) == {one, two}
        for question in unanswered:
            question.cancel()
        await until(lambda: kafka.cancelled == 3)
    finally:
        with contextlib.suppress(TypeError):  # Faust's own way of ending it
            await thread.stop()
