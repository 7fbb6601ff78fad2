"""The embed worker's loop: acknowledged in order and only when done, tried again, given up with the partition."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import mode
import pytest

from app.embed.records import RecordFactory
from app.event import Event
from app.observe.metrics import EmbedMetrics
from app.settings import Settings
from app.watchdog import Watchdog
from consumers.embed import worker as module
from consumers.embed.worker import EmbedWorker
from schemas.errors import BrokerUnavailable, RecordUnreadable
from schemas.headers import decode_headers
from tests.unit.consumers.parts import TP, FakeFaust, Stream, until
from tests.unit.embed.parts import LogProducer, event


class Pipeline:
    """Stands for EmbedPipeline. fail: how often; gate: holds the batch up while it is not set."""

    batch_bytes = 2**16

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self.first: list[dict[int, int]] = []
        self.fail = 0
        self.gate = threading.Event()
        self.gate.set()

    def process(
        self, events: Sequence[Event], owns: Callable[[int], bool], first: Mapping[int, int] | None = None
    ) -> set[int]:
        self.batches.append([(item.partition, item.offset) for item in events])
        self.first.append(dict(first or {}))
        assert self.gate.wait(10)
        if self.fail:
            self.fail -= 1
            raise BrokerUnavailable("not now")
        return {item.partition for item in events if owns(item.partition)}


class NoBeat(Watchdog):
    """Its clock is the test's: no loop keeps up with that."""

    async def beat(self, stage: str = "") -> None:
        await asyncio.Event().wait()


class Parts:
    def __init__(self, events: list[Event], watchdog: Watchdog | None = None, **changed: Any) -> None:
        self.app = FakeFaust(0, 1)
        self.pipeline, self.producer, self.stream = Pipeline(), LogProducer(), Stream(events)
        self.kafka = SimpleNamespace(trouble=None, run=asyncio.Event().wait)
        self.metrics = EmbedMetrics()
        settings = Settings(_env_file=None, **({"watermark_interval_ms": 60_000} | changed))
        records = RecordFactory("d.changes", "d.vectors", "d.dlq", "epoch", "m")
        app: Any = self.app
        pipeline: Any = self.pipeline
        producer: Any = self.producer
        kafka: Any = self.kafka
        watchdog = watchdog or Watchdog(0)
        self.worker = EmbedWorker(settings, app, pipeline, records, producer, kafka, self.metrics, watchdog)


@asynccontextmanager
async def running(given: list[Event] | Parts, **changed: Any) -> AsyncIterator[Parts]:
    """A worker that owns partitions 0 and 1 and reads the events."""
    parts = given if isinstance(given, Parts) else Parts(given, **changed)
    await parts.app.on_partitions_assigned.hook(parts.app, [TP(0), TP(1)])
    tasks = [asyncio.create_task(parts.app.take_in(parts.stream)), asyncio.create_task(parts.worker.run())]
    try:
        yield parts
    finally:
        parts.pipeline.gate.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        parts.worker._thread.shutdown()


def history(count: int, partition: int = 0) -> list[Event]:
    return [event(offset, "a", "x", partition=partition)._replace(generation=1) for offset in range(count)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.001)


async def test_events_are_acknowledged_in_order_and_only_after_they_were_processed() -> None:
    async with running(history(5)) as parts:
        parts.pipeline.gate.clear()
        await until(lambda: parts.pipeline.batches)
        assert parts.stream.acked == []
        parts.pipeline.gate.set()
        await until(lambda: len(parts.stream.acked) == 5)
        assert parts.stream.acked == [(0, offset) for offset in range(5)]
        assert parts.stream.without_acks


async def test_while_a_batch_is_worked_on_the_next_one_piles_up() -> None:
    async with running(history(9)) as parts:
        parts.pipeline.gate.clear()
        await until(lambda: parts.pipeline.batches and len(parts.worker._inbox) + len(parts.pipeline.batches[0]) == 9)
        parts.pipeline.gate.set()
        await until(lambda: len(parts.stream.acked) == 9)
        assert len(parts.pipeline.batches) <= 2


async def test_each_batch_says_up_to_where_everything_has_been_dealt_with() -> None:
    async with running(history(3), batch_max_documents=1) as parts:
        parts.app.consumer.start_offsets[0] = 0
        await until(lambda: len(parts.stream.acked) == 3)
        assert parts.pipeline.first == [{0: 0}, {0: 1}, {0: 2}]


async def test_an_outage_is_waited_out_with_the_same_events_and_told_meanwhile() -> None:
    async with running(history(2)) as parts:
        parts.pipeline.fail = 3
        await until(lambda: len(parts.stream.acked) == 2)
        assert parts.pipeline.batches[0] in parts.pipeline.batches[1:]
        assert parts.metrics.registry.get_sample_value("headrace_embed_retries_total") == 3
        assert parts.worker.ready is None


async def test_trouble_shows_in_readiness_until_it_is_over() -> None:
    async with running(history(1)) as parts:
        parts.pipeline.fail = 10**6
        await until(lambda: parts.worker.trouble)
        assert parts.worker.ready == "BrokerUnavailable: not now"
        parts.pipeline.fail = 0
        await until(lambda: parts.worker.ready is None)
        parts.kafka.trouble = "Kafka is away"
        assert parts.worker.ready == "Kafka is away"


async def test_a_worker_without_a_place_in_the_group_is_not_ready() -> None:
    parts = Parts([])
    assert parts.worker.ready == "joining the consumer group"
    await parts.app.on_partitions_assigned.hook(parts.app, [])
    assert parts.worker.ready is None
    parts.app.started = False
    assert parts.worker.ready == "joining the consumer group"


async def test_events_of_a_partition_that_was_taken_away_are_not_acknowledged() -> None:
    async with running(history(3)) as parts:
        parts.pipeline.fail = 10**6
        await until(lambda: parts.worker.trouble)
        parts.worker._owned = frozenset({1})
        await until(lambda: parts.worker._idle.is_set())
        assert parts.stream.acked == []


async def test_events_fetched_before_a_rebalance_are_left_to_come_again() -> None:
    async with running([item._replace(generation=0) for item in history(2)] + history(4)[2:]) as parts:
        await until(lambda: len(parts.stream.acked) == 2)
        assert parts.stream.acked == [(0, 2), (0, 3)]
        assert {offset for batch in parts.pipeline.batches for _, offset in batch} == {2, 3}


async def test_a_rebalance_waits_for_the_batch_in_flight_commits_and_drops_the_rest() -> None:
    async with running(history(9), batch_max_documents=1) as parts:
        parts.pipeline.gate.clear()
        await until(lambda: parts.pipeline.batches and len(parts.worker._inbox) == 8)
        revoking = asyncio.create_task(parts.app.on_partitions_revoked.hook(parts.app, [TP(0)]))
        await until(lambda: len(parts.worker._inbox) == 0)
        assert not revoking.done()
        parts.pipeline.gate.set()
        await asyncio.wait_for(revoking, 5)
        assert (parts.stream.acked, parts.app.consumer.commits) == ([(0, 0)], 1)
        assert not parts.worker._owns(0)


async def test_a_batch_that_does_not_end_is_given_up_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "REVOKE_S", 0.02)
    async with running(history(1)) as parts:
        parts.pipeline.gate.clear()
        await until(lambda: parts.pipeline.batches)
        await asyncio.wait_for(parts.app.on_partitions_revoked.hook(parts.app, [TP(0)]), 5)
        assert "it will be done again" in caplog.text
        parts.pipeline.gate.set()
        await until(lambda: parts.worker._idle.is_set())
        assert parts.stream.acked == []  # the pipeline asked who owns it, and did not produce


async def test_before_the_end_the_batch_in_flight_is_finished_and_committed() -> None:
    async with running(history(1)) as parts:
        parts.pipeline.gate.clear()
        await until(lambda: parts.pipeline.batches)
        draining = asyncio.create_task(parts.worker.drain())
        parts.pipeline.gate.set()
        await asyncio.wait_for(draining, 5)
        assert (parts.stream.acked, parts.app.consumer.commits) == ([(0, 0)], 1)


async def test_an_idle_partition_gets_a_watermark_only_when_all_of_it_is_done() -> None:
    async with running(history(3)) as parts:
        await until(lambda: len(parts.stream.acked) == 3)
        parts.app.consumer.end = {0: 3, 1: 4}  # of partition 1 four events have not been read
        (record,) = (await parts.worker._due_watermarks()).values()
        headers = decode_headers(record.headers)
        assert (headers.kind, record.partition, headers.through) == ("watermark", 0, 2)
        parts.app.consumer.end = {0: 4, 1: 0}
        assert list(await parts.worker._due_watermarks()) == [1]  # empty: all of nothing is reflected


async def test_a_partition_that_was_lost_or_is_busy_gets_no_watermark() -> None:
    async with running(history(1)) as parts:
        parts.pipeline.gate.clear()
        await until(lambda: parts.pipeline.batches)
        parts.worker._owned = frozenset({0})
        parts.app.consumer.end = {0: 0, 1: 0}
        assert await parts.worker._due_watermarks() == {}


async def test_watermarks_go_on_when_one_could_not_be_written() -> None:
    async with running([], watermark_interval_ms=50) as parts:
        asked = [0]
        original = parts.app.consumer.highwaters

        async def fails_first(*tps: TP) -> dict[TP, int]:
            asked[0] += 1
            if asked[0] == 1:
                raise ConnectionError("away")
            return await original(*tps)

        parts.app.consumer.highwaters = fails_first  # type: ignore[method-assign]
        await until(lambda: len(parts.producer.log) >= 2)
        assert {record.partition for record in parts.producer.log} == {0, 1}


async def test_a_watermark_that_kafka_does_not_take_is_told_until_it_takes_one() -> None:
    parts = Parts([], watermark_interval_ms=50)
    parts.producer.lose, parts.producer.error = 0, BrokerUnavailable("not enough replicas")
    async with running(parts):
        await until(lambda: parts.worker.ready is not None)
        assert "cannot be written: not enough replicas" in (parts.worker.ready or "")
        parts.producer.lose = None
        await until(lambda: parts.worker.ready is None)


async def test_a_watermark_that_is_never_confirmed_is_a_stall_and_holds_up_no_other_partition() -> None:
    now, ended = [0.0], list[str]()
    watchdog = NoBeat(100, lambda: now[0], ended.append)
    parts = Parts([], watchdog, watermark_interval_ms=50)
    parts.producer.deaf = {1}
    async with running(parts):
        await until(lambda: [record.partition for record in parts.producer.log].count(0) > 3)
        assert [record.partition for record in parts.producer.log].count(1) == 1
        now[0] = 25
        await until(lambda: parts.worker.ready is not None)
        assert parts.worker.ready == "a watermark of partition 1 has taken 25 s so far; after 100 s the process ends"
        parts.kafka.trouble = "away"
        now[0] = 200
        watchdog.look()
        assert ended == [], "it is Kafka's"
        parts.kafka.trouble = None
        now[0] = 300
        watchdog.look()
        assert ended[0].startswith("a watermark of partition 1 has taken 100 s")


async def test_a_rebalance_without_end_is_a_stall() -> None:
    now, ended = [0.0], list[str]()
    watchdog = NoBeat(100, lambda: now[0], ended.append)
    async with running(Parts([], watchdog)) as parts:
        await until(lambda: watchdog._watched)
        now[0] = 1000
        watchdog.look()
        assert ended == []
        parts.app.rebalancing = True
        now[0] = 1179
        watchdog.look()
        assert ended == [], "a rebalance may take a minute, and begin again"
        now[0] = 1180
        watchdog.look()
        assert ended[0].startswith("joining the consumer group has taken 180 s")


def test_an_agent_that_fails_takes_the_worker_down_instead_of_skipping_the_event() -> None:
    (agent,) = Parts([]).app.agents
    assert agent["supervisor_strategy"] is mode.CrashingSupervisor
    assert (agent["topic"].name, agent["topic"].value_serializer) == ("documents.changes", "raw")


async def test_without_the_lease_nothing_is_written_until_the_group_has_answered() -> None:
    async with running(history(3)) as parts:
        parts.app.consumer.lease.holds = False
        await until(lambda: len(parts.pipeline.batches) > 2)  # tried again and again
        assert parts.stream.acked == []
        assert parts.worker.ready is not None
        assert "LeaseExpired" in parts.worker.ready
        parts.app.consumer.lease.holds = True
        await until(lambda: len(parts.stream.acked) == 3)
        assert parts.worker.ready is None


async def test_a_batch_that_waits_for_the_lease_is_given_up_with_its_partition() -> None:
    async with running(history(3)) as parts:
        parts.app.consumer.lease.holds = False
        await until(lambda: len(parts.pipeline.batches) > 2)
        parts.app.consumer_generation_id = 2
        parts.app.consumer.lease.holds = True
        await parts.app.on_partitions_assigned.hook(parts.app, [TP(1)])
        await until(lambda: parts.worker._idle.is_set())
        assert parts.stream.acked == []


async def test_partitions_are_given_back_at_once_by_a_batch_that_waits_for_the_lease() -> None:
    """The lease comes back only once the group has been joined again, and that waits for the batch."""
    async with running(history(3)) as parts:
        parts.app.consumer.lease.holds = False
        await until(lambda: len(parts.pipeline.batches) > 2)
        await asyncio.wait_for(parts.app.on_partitions_revoked.hook(parts.app, [TP(0), TP(1)]), 2)
        assert parts.stream.acked == []


async def test_without_the_lease_no_watermark_is_written() -> None:
    async with running([], watermark_interval_ms=50) as parts:
        await until(lambda: parts.producer.log)
        parts.app.consumer.lease.holds = False
        await asyncio.sleep(0.1)
        parts.producer.take()
        await asyncio.sleep(0.15)
        assert parts.producer.take() == []


async def test_a_partition_that_kafka_cannot_give_holds_up_no_watermark_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reader:
        def __init__(self, *_: Any, **__: Any) -> None:
            return

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            return

        def read(self, topic: str, _: Mapping[int, Any]) -> Any:
            raise RecordUnreadable(topic, 1, "its checksum is wrong")

    monkeypatch.setattr(module, "TopicReader", Reader)
    for told in (True, False):  # before it has been fetched, Kafka alone knows
        async with running([], watermark_interval_ms=50) as parts:
            parts.app.consumer.end = {0: 0, 1: 4}
            parts.app.consumer.unreadable._places = {TP(1): (0, "damaged")} if told else {}
            for _ in range(4):
                await until(lambda parts=parts: parts.producer.log)
                assert {record.partition for record in parts.producer.take()} == {0}


async def test_a_watermark_that_fails_after_its_partition_went_elsewhere_is_nobodys_trouble() -> None:
    parts = Parts([], watermark_interval_ms=50)
    parts.producer.deaf = {1}
    waiting: list[Any] = []
    deliver = parts.producer.deliver

    def remembered(records: Any) -> Any:
        future = deliver(records)
        waiting.extend([future] if records[0].partition == 1 else [])
        return future

    parts.producer.deliver = remembered  # type: ignore[method-assign]
    async with running(parts):
        await until(lambda: waiting)
        await parts.app.on_partitions_revoked.hook(parts.app, [TP(0), TP(1)])
        parts.app.consumer.partitions = {0}
        await parts.app.on_partitions_assigned.hook(parts.app, [TP(0)])
        waiting[0].set_exception(BrokerUnavailable("timed out"))
        await until(lambda: 1 not in parts.worker._marking)
        assert parts.worker.ready is None


async def test_a_group_that_has_forgotten_the_worker_is_told_and_ends_it() -> None:
    """aiokafka waits for ever for somebody to look at what went wrong in its group, and Faust does not."""
    now, ended = [0.0], list[str]()
    watchdog = NoBeat(1000, lambda: now[0], ended.append)
    async with running(Parts([], watchdog)) as parts:
        await until(lambda: watchdog._watched)
        watchdog.look()
        parts.app.consumer.lease.holds = False  # for good; Kafka is well
        watchdog.look()
        now[0] = 500
        watchdog.look()
        assert "joining the consumer group" in str(parts.worker.ready)
        now[0] = 1001
        watchdog.look()
        assert ended


async def test_a_partition_that_no_broker_leads_holds_up_no_watermark_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = Parts([], watermark_interval_ms=50)
    consumer = parts.app.consumer
    consumer.unled = frozenset({TP(1)})
    highwaters = consumer.highwaters

    async def asked(*tps: TP) -> dict[TP, int]:
        assert TP(1) not in tps, "nobody would answer"
        return await highwaters(*tps)

    monkeypatch.setattr(consumer, "highwaters", asked)
    async with running(parts):
        await until(lambda: parts.producer.log)
        assert {record.partition for record in parts.producer.take()} == {0}
