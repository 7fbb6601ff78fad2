"""Faust without Kafka: its real app, agents, conductor, consumer and recovery; only its thread is ours."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import faust
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from app.event import Event
from app.kafka.topics import CollectionTopics
from app.settings import Settings
from consumers.faust_app import make_app
from consumers.worker_consumer import WorkerConsumer
from tests.unit.consumers.parts import until


class Broker(Service):  # type: ignore[misc]
    """A topic in memory and the group that reads it, in the place of Faust's thread.

    first: below it everything was deleted. sought: by partition, in order. While `gate` is not set, seeks wait; while
    `answers` is not set, a fetch does, and then brings what is there: it outlives a rebalance, as aiokafka's does.
    """

    def __init__(self, topic: str, *partitions: int) -> None:
        super().__init__()
        self.tps = {number: TP(topic, number) for number in partitions}
        self.records: dict[TP, list[ConsumerRecord[Any, Any]]] = {tp: [] for tp in self.tps.values()}
        self.first = dict.fromkeys(self.records, 0)
        self.end = dict.fromkeys(self.records, 0)
        self.committed: dict[TP, int] = {}
        self.marks: dict[TP, str] = {}
        self.sought: list[dict[int, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answers = asyncio.Event()
        self.answers.set()
        self.fetches = 0
        self.app: Any = None
        self._place: dict[TP, int] = {}
        self._assigned: set[TP] = set()
        self._generation = 0

    def write(self, *events: Event) -> None:
        """Offsets that are left out were compacted away."""
        for event in events:
            tp = self.tps[event.partition]
            size = len(event.value or b"")
            given = (event.offset, event.timestamp_ms, 0, event.key, event.value, None, len(event.key or b""), size)
            self.records[tp].append(ConsumerRecord(tp.topic, tp.partition, *given, event.headers))
            self.end[tp] = event.offset + 1

    async def rebalance(self, *partitions: int) -> None:
        """As every rebalance: take all partitions away, then give these."""
        consumer = self.app.consumer
        self.app.on_rebalance_start()
        await consumer.on_partitions_revoked(set(self._assigned))
        self._assigned = {self.tps[number] for number in partitions}
        self._place = {tp: self.committed[tp] for tp in self._assigned if tp in self.committed}
        self._generation += 1
        self.app.consumer_generation_id = self._generation
        consumer.lease.renew(consumer.lease.begin())
        await consumer.on_partitions_assigned(set(self._assigned), self._generation)

    async def subscribe(self, topics: Iterable[str]) -> None:
        assert set(topics) == {tp.topic for tp in self.records}
        self.add_future(self.rebalance(*self.tps))

    def assignment(self) -> set[TP]:
        return set(self._assigned)

    def highwater(self, tp: TP) -> int:
        return self.end[tp]

    def leaderless(self, _: Iterable[TP]) -> frozenset[TP]:
        return frozenset()

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return {tp: self.first[tp] for tp in tps}

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        return {tp: self.end[tp] for tp in tps}

    async def position(self, tp: TP) -> int:
        return self._place.get(tp, 0)

    async def seek_wait(self, target: Mapping[TP, int]) -> None:
        await self.gate.wait()
        self.sought.append({tp.partition: offset for tp, offset in target.items()})
        self._place.update(target)

    async def committed_places(self, tps: set[TP]) -> dict[TP, OffsetAndMetadata]:
        await self.gate.wait()
        return {tp: OffsetAndMetadata(self.committed[tp], self.marks.get(tp, "")) for tp in tps & self.committed.keys()}

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        self.committed.update(offsets)
        self.marks |= dict.fromkeys(offsets, self.app.collection.mark)
        return True

    async def getmany(self, active_partitions: set[TP], timeout: float) -> dict[TP, list[ConsumerRecord[Any, Any]]]:
        """An offset that is not held becomes the first one that is, as Kafka's clients have it."""
        if not self.app.consumer.flow_active:
            return {}
        self.fetches += 1
        await self.answers.wait()
        found = {}
        for tp in active_partitions & self._assigned:
            place = self._place.get(tp, self.first[tp])
            if not self.first[tp] <= place <= self.end[tp]:
                place = self.first[tp]
            self._place[tp] = self.end[tp]
            found[tp] = [record for record in self.records[tp] if record.offset >= max(place, self.first[tp])]
        found = {tp: records for tp, records in found.items() if records}
        await asyncio.sleep(0 if found else 0.002)
        return found

    def verify_event_path(self, now: float, tp: TP) -> None:
        """What Faust logs of slow streams."""

    def close(self) -> None:
        return None


class _NoProducer(driver.Producer):  # type: ignore[misc]
    async def on_start(self) -> None:
        """Connect to nothing: Faust's own producer is not used."""


def app_on(
    broker: Broker,
    settings: Settings,
    consumer_type: type[WorkerConsumer],
    topics: CollectionTopics | None = None,
    **options: Any,
) -> faust.App:
    """The app that a worker has, on this broker."""

    class OnBroker(consumer_type):  # type: ignore[misc, valid-type]
        def _new_consumer_thread(self) -> Any:
            return broker

    app = make_app(settings, "group", topics or CollectionTopics(len(broker.tps), "epoch"), OnBroker, **options)
    broker.app = app
    return app


@asynccontextmanager
async def started(app: faust.App) -> AsyncIterator[None]:
    """Run the app until the block ends; at its begin the partitions are assigned and read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app.finalize()
        app._producer = _NoProducer(app.producer_transport)
        running = asyncio.create_task(app.start())
        try:
            await until(lambda: app.rebalancing_count and not app.rebalancing, 20)
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await asyncio.wait_for(app.stop(), 20)
