"""What a rebalance leaves under way, on a real Kafka: a fetch that brings records while nothing may be read."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from mode import CrashingSupervisor

from app.event import Event
from app.kafka.start import check_kafka
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from consumers.faust_app import as_event, is_current, make_app, raw_topic
from consumers.worker_consumer import WorkerConsumer
from tests.conftest import MakeStack
from tests.documents import Documents
from tests.stack import Stack
from tests.unit.consumers.parts import until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


_FETCH_S = 5.0  # Faust's waits for one second: time enough in life, too little for a test


class Member:
    """A worker that reads the changes and acknowledges none. dropped: records of fetches that Faust threw away."""

    def __init__(self, stack: Stack) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.events: list[Event] = []
        self.dropped = 0
        member = self

        class Consumer(WorkerConsumer):
            async def perform_seek(self) -> None:
                await member.gate.wait()
                await super().perform_seek()

            async def _getmany(self, active_partitions: object, timeout: float) -> dict[object, list[object]]:
                found: dict[object, list[object]] = await super()._getmany(active_partitions, _FETCH_S)
                member.dropped += 0 if self.flow_active else sum(map(len, found.values()))
                return found

        settings = stack.settings
        self.app = make_app(settings, settings.embed_group, check_kafka(settings), Consumer, table_standby_replicas=0)

        async def take_in(stream: object) -> None:
            async for event in stream.noack().events():  # type: ignore[attr-defined]
                self.events.append(as_event(event.message))

        topic = raw_topic(self.app, settings.changes_topic)
        self.app.agent(topic, name="reader", supervisor_strategy=CrashingSupervisor)(take_in)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.app.finalize()
            task = asyncio.create_task(self.app.start())
            try:
                yield
            finally:
                self.gate.set()
                await asyncio.wait_for(self.app.stop(), 20)
                await asyncio.gather(task, return_exceptions=True)

    @property
    def places(self) -> set[tuple[int, int]]:
        """What it has of its present partitions."""
        return {(event.partition, event.offset) for event in self.events if is_current(self.app, event)}


async def test_the_first_events_of_a_group_come_though_a_rebalance_drops_the_fetch_that_brought_them(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    """Nothing is committed yet, so that Faust by itself would go on behind what it dropped."""
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", session_timeout_ms=6000)
    first, second = Member(stack), Member(stack)
    async with AsyncExitStack() as running:
        await running.enter_async_context(first.running())
        await until(lambda: first.app.rebalancing_count and not first.app.rebalancing, 30)
        first.gate.clear()
        await running.enter_async_context(second.running())
        await until(lambda: not first.app.consumer.flow_active, 30)
        documents = Documents(stack)
        await asyncio.to_thread(lambda: [documents.upsert(f"d{number}", "text") for number in range(40)])
        wanted = {(at.partition, at.offset) for at in documents.positions}
        await until(lambda: first.dropped, 30)
        first.gate.set()
        await until(lambda: first.places | second.places >= wanted, 30)
    assert first.places
