"""A worker that reads nothing though there is something ends; one that is busy, or waits for Kafka, does not."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from consumers.stalls import StallWatch
from schemas.errors import Stalled


class TP(NamedTuple):
    topic: str
    partition: int


class Consumer:
    def __init__(self) -> None:
        self.ends = {TP("t", 0): 10, TP("t", 1): 5}
        self.places = {TP("t", 0): 10, TP("t", 1): 5}
        self.unreadable: Any = SimpleNamespace(trouble=None, partitions=frozenset())
        self.without_leader: frozenset[TP] = frozenset()

    def leaderless(self, partitions: Iterable[TP]) -> frozenset[TP]:
        return self.without_leader & frozenset(partitions)

    def assignment(self) -> set[TP]:
        return set(self.ends)

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        assert not self.leaderless(tps), "nobody would answer"
        return self.ends

    async def position(self, tp: TP) -> int:
        assert not self.leaderless([tp]), "nobody would answer"
        return self.places[tp]


class Parts:
    def __init__(self) -> None:
        self.consumer = Consumer()
        self.app: Any = SimpleNamespace(
            started=True, rebalancing=False, consumer=self.consumer, _consumer=self.consumer
        )
        self.kafka: Any = SimpleNamespace(trouble=None)
        self.has_room, self.now = True, 0.0
        self.watch = StallWatch(self.app, self.kafka, 100, lambda: self.has_room, lambda: self.now)

    async def after(self, seconds: float) -> str | None:
        self.now += seconds
        await self.watch.look()
        return self.watch.trouble


async def test_records_that_nobody_reads_are_told_and_then_end_the_worker() -> None:
    parts = Parts()
    parts.consumer.ends[TP("t", 1)] = 7
    assert await parts.after(0) is None
    assert await parts.after(24) is None
    assert await parts.after(1) == "partition 1 of t has records up to 7, reading stands at 5 for 25 s"
    with pytest.raises(Stalled, match="reading stands at 5 for 100 s"):
        await parts.after(75)


async def test_a_partition_that_is_read_on_is_no_stall() -> None:
    parts = Parts()
    parts.consumer.ends[TP("t", 1)] = 100
    for place in range(5, 12):
        parts.consumer.places[TP("t", 1)] = place
        assert await parts.after(24) is None


@pytest.mark.parametrize("excuse", ["full", "kafka", "rebalancing"])
async def test_an_excuse_begins_the_clock_anew(excuse: str) -> None:
    parts = Parts()
    parts.consumer.ends[TP("t", 1)] = 7
    await parts.after(0)
    assert await parts.after(50) is not None
    parts.has_room, parts.app.rebalancing = excuse != "full", excuse == "rebalancing"
    parts.kafka.trouble = "away" if excuse == "kafka" else None
    assert await parts.after(60) is None
    parts.has_room, parts.app.rebalancing, parts.kafka.trouble = True, False, None
    assert await parts.after(1) is None
    assert await parts.after(24) is None


async def test_a_partition_that_kafka_cannot_give_is_told_at_once_and_no_reason_to_end() -> None:
    parts = Parts()
    parts.consumer.ends[TP("t", 1)] = 7
    parts.consumer.unreadable = SimpleNamespace(trouble="it is damaged", partitions=frozenset({TP("t", 1)}))
    assert await parts.after(0) == "it is damaged"
    assert await parts.after(1000) == "it is damaged"
    parts.consumer.unreadable = SimpleNamespace(trouble=None, partitions=frozenset())
    assert await parts.after(0) is None


async def test_a_partition_that_no_broker_leads_is_told_and_no_reason_to_end_and_the_others_are_looked_at() -> None:
    parts = Parts()
    parts.consumer.ends = dict.fromkeys(parts.consumer.ends, 100)
    parts.consumer.without_leader = frozenset({TP("t", 1)})
    told = "no broker leads partition 1 of t: it is not read until one does"
    assert await parts.after(0) == told
    for place in range(10, 20):
        parts.consumer.places[TP("t", 0)] = place
        assert await parts.after(24) == told
    assert await parts.after(25) == "partition 0 of t has records up to 100, reading stands at 19 for 25 s"
    parts.consumer.without_leader = frozenset()
    parts.consumer.places = parts.consumer.ends
    assert await parts.after(0) is None
