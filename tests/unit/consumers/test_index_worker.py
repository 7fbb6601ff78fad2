"""The index worker: records into the right shards, which come and go with the partitions; told to the registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.event import Event
from app.observe.freshness import FreshnessTraces
from app.observe.metrics import IndexMetrics
from app.observe.tracing import Tracing
from consumers.index.worker import IndexWorker
from tests.unit.consumers.parts import TP, FakeFaust, Stream, until
from tests.unit.shard.parts import document, found, shard_settings, unit, watermark


class Registry:
    def __init__(self) -> None:
        self.urls: set[str] = set()

    def announce(self, url: str) -> None:
        self.urls.add(url)

    def withdraw(self, url: str) -> None:
        self.urls.discard(url)


class Parts:
    def __init__(self, folder: Path, events: list[Event]) -> None:
        settings = shard_settings(folder)
        self.app, self.stream, self.registry = FakeFaust(0, 1), Stream(events), Registry()
        self.kafka = SimpleNamespace(trouble=None, run=asyncio.Event().wait)
        self.metrics = IndexMetrics()
        traces = FreshnessTraces(Tracing(settings, "index"), settings.vectors_topic, 1000)
        app: Any = self.app
        registry: Any = self.registry
        kafka: Any = self.kafka
        self.worker = IndexWorker(settings, app, "epoch", registry, traces, kafka, self.metrics, "http://me")

    async def assign(self, *partitions: int) -> None:
        self.app.consumer.partitions = set(partitions)
        await self.app.on_rebalance_complete.hook(self.app)

    def applied(self, partition: int) -> int | None:
        """The offset up to which records can be found."""
        return self.worker.shards.open[partition].status().next_offset

    def outcome(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value("headrace_index_records_total", {"outcome": name})


@asynccontextmanager
async def running(folder: Path, *events: Event) -> AsyncIterator[Parts]:
    parts = Parts(folder, [item._replace(generation=item.generation or 1) for item in events])
    await parts.assign(0, 1)
    for partition in (0, 1):
        parts.worker.opened(partition, 0)
    tasks = [asyncio.create_task(parts.app.take_in(parts.stream)), asyncio.create_task(parts.worker.run())]
    try:
        yield parts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        parts.worker.close()


async def test_records_go_into_the_shard_of_their_partition_and_can_be_found(tmp_path: Path) -> None:
    other = document(0, "b", unit(1))._replace(partition=1)
    async with running(tmp_path, document(0, "a", unit(1)), other, watermark(1, 9)) as parts:
        shards = parts.worker.shards
        await until(lambda: (parts.applied(0), parts.applied(1)) == (2, 1))
        assert (found(shards.open[0], unit(1)), found(shards.open[1], unit(1))) == (["a"], ["b"])
        await until(
            lambda: (parts.outcome("upsert"), parts.outcome("watermark")) == (2, 1) and len(parts.worker.recent) == 2
        )
        assert {(item["id"], item["op"], item["shard"]) for item in parts.worker.recent} == {
            ("a", "upsert", 0),
            ("b", "upsert", 1),
        }


async def test_a_document_with_an_absurd_time_does_not_stop_the_worker(tmp_path: Path) -> None:
    events = [document(n, f"d{n}", unit(1), event_time_ms=when) for n, when in enumerate((2**62, -(2**62), -1))]
    async with running(tmp_path, *events) as parts:
        await until(lambda: len(parts.worker.recent) == 3)
        assert parts.worker.next_offset(0) == 3


async def test_a_damaged_record_is_named_and_the_next_is_applied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = document(0, "a", unit(1))._replace(value=b"damaged")
    async with running(tmp_path, bad, document(1, "b", unit(1))) as parts:
        await until(lambda: parts.applied(0) == 2)
        await until(lambda: parts.outcome("rejected") == 1 and parts.worker.recent)
        assert "record 0 of partition 0 left out" in caplog.text


async def test_records_fetched_before_a_rebalance_are_left_to_come_again(tmp_path: Path) -> None:
    old = document(0, "a", unit(1))._replace(generation=7)
    async with running(tmp_path, old, document(1, "b", unit(1))) as parts:
        await until(lambda: parts.applied(0) == 2)
        assert found(parts.worker.shards.open[0], unit(1)) == ["b"]


async def test_after_a_rebalance_the_worker_has_the_shards_of_its_partitions(tmp_path: Path) -> None:
    async with running(tmp_path) as parts:
        kept = parts.worker.shards.open[1]
        await parts.app.on_partitions_revoked.hook(parts.app, [TP(0), TP(1)])
        assert set(parts.worker.shards.open) == {0, 1}  # until it is known which come back
        await parts.assign(1, 2)
        assert set(parts.worker.shards.open) == {1, 2}
        assert parts.worker.shards.open[1] is kept
        assert (parts.worker.next_offset(0), parts.worker.next_offset(2)) == (None, None)


async def test_a_shard_whose_log_was_cut_off_is_started_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, document(0, "a", unit(1))) as parts:
        await until(lambda: parts.applied(0) == 1)
        parts.worker.rebuild(0, wanted=1, first=5, end=9)
        assert parts.worker.next_offset(0) is None
        assert "rebuilding it from the beginning" in caplog.text


async def test_readiness_names_what_is_in_the_way(tmp_path: Path) -> None:
    fresh = Parts(tmp_path / "fresh", [])
    assert fresh.worker.ready == "waiting for its shards"
    fresh.app.started = False
    assert fresh.worker.ready == "joining the consumer group"
    fresh.worker.close()
    async with running(tmp_path, document(0, "a", unit(1))) as parts:
        parts.worker.opened(1, 3)
        assert parts.worker.ready == "shards catching up: [1]"
        parts.worker.opened(1, 0)
        assert parts.worker.ready is None
        parts.kafka.trouble = "Kafka is away"
        assert parts.worker.ready == "Kafka is away"


async def test_the_worker_is_announced_while_it_runs_and_withdrawn_at_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, document(0, "a", unit(1))) as parts:
        await until(lambda: parts.registry.urls == {"http://me"})
        await asyncio.wait_for(parts.worker.drain(), 5)
        assert parts.registry.urls == set()
