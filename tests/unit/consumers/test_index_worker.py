"""The index worker: records into the right shards, which come and go with the partitions; told to the registry."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.event import Event
from app.freshness.objective import Objective
from app.freshness.traces import FreshnessTraces
from app.freshness.visibility import Visibility
from app.kafka.topics import CollectionTopics
from app.observe.metrics import IndexMetrics
from app.observe.tracing import Tracing
from app.shard.write_back import WriteBack
from app.watchdog import Watchdog
from consumers.index import worker as module
from consumers.index.worker import IndexWorker
from schemas.dead_letter import decode_dead_letter
from schemas.errors import StorageFull
from schemas.headers import decode_headers
from tests.unit.consumers.parts import TP, FakeFaust, Stream, until
from tests.unit.embed.parts import LogProducer
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
        traces = FreshnessTraces(Tracing(settings, "index"), settings)
        visibility = Visibility(
            traces, Objective(1000, 0.99), self.metrics, "http://me", probe_one_in=0, probe_per_s=0, slow_per_s=0
        )
        app: Any = self.app
        registry: Any = self.registry
        kafka: Any = self.kafka
        self.producer = LogProducer()
        producer: Any = self.producer
        to_topics = WriteBack(settings, "epoch", producer, self.metrics)
        self.worker = IndexWorker(
            settings,
            app,
            CollectionTopics(2, "epoch"),
            registry,
            visibility,
            kafka,
            self.metrics,
            to_topics,
            Watchdog(0),
            "http://me",
        )

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
        await until(lambda: parts.producer.log)
        (letter,) = parts.producer.log
        assert (letter.topic, letter.key, letter.value) == ("documents.dlq", b"a", b"damaged")
        told = decode_dead_letter(letter.headers)
        assert (told.topic, told.partition, told.offset, told.stage) == ("documents.vectors", 0, 0, "index")
        await until(lambda: not parts.worker.shards.open[0].outbox.rejected(9))


async def test_a_disk_that_refuses_to_forget_a_dead_letter_makes_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WRITE_BACK_S", 0.01)
    refused, full = [0], [True]
    async with running(tmp_path) as parts:
        outbox = parts.worker.shards.open[0].outbox
        forget = outbox.dead_lettered

        def forget_if_there_is_room(offsets: Any) -> None:
            if full[0]:
                refused[0] += 1
                raise sqlite3.OperationalError("database or disk is full")
            forget(offsets)

        monkeypatch.setattr(outbox, "dead_lettered", forget_if_there_is_room)
        await give(parts, document(0, "a", unit(1))._replace(value=b"damaged"))
        await until(lambda: refused[0] > 5)
        full[0] = False
        await until(lambda: not outbox.rejected(9))
        assert [letter.key for letter in parts.producer.log] == [b"a"]


async def test_what_an_older_record_covered_in_the_topic_is_written_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WRITE_BACK_S", 0.01)
    newer, older = document(0, "a", unit(1), source_offset=9), document(1, "a", unit(0, 1), source_offset=3)
    async with running(tmp_path, newer, older) as parts:
        await until(lambda: parts.producer.log)
        assert decode_headers(parts.producer.log[0].headers).source_offset == 9


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
        reason = parts.worker.cannot_go_on(0, wanted=1, first=5, end=9)
        assert reason == "it would go on at offset 1, but the topic holds 5 to 9"
        parts.worker.rebuild(0, reason)
        assert parts.worker.next_offset(0) is None
        assert "Rebuilding it from the beginning" in caplog.text


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


class NoRoom:
    """A shard's disk without room until `end`. given_up: how often a transaction could not be written."""

    def __init__(self, parts: Parts, monkeypatch: pytest.MonkeyPatch, partition: int = 0) -> None:
        monkeypatch.setattr(module, "_PAUSE_S", 0.02)
        self.given_up = 0
        self._is_full = True
        self._shard = parts.worker.shards.open[partition]
        self._apply = self._shard.apply
        monkeypatch.setattr(self._shard, "apply", self.apply)

    def apply(self, events: Any) -> Any:
        if self._is_full:
            self.given_up += 1
            raise StorageFull("the disk is full")
        return self._apply(events)

    def end(self) -> None:
        self._is_full = False


async def give(parts: Parts, *events: Event) -> None:
    """Records from Kafka."""
    for item in events:
        await parts.worker._inbox.put(item._replace(generation=1))


def is_paused(parts: Parts) -> bool:
    return parts.metrics.registry.get_sample_value("headrace_index_paused") == 1


async def test_without_room_on_the_disk_ingestion_pauses_says_why_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as parts:
        disk = NoRoom(parts, monkeypatch)
        await give(parts, document(0, "a", unit(1)), document(1, "b", unit(1)))
        await until(lambda: disk.given_up >= 2)
        assert (parts.worker.paused, parts.worker.ready, is_paused(parts)) == ("the disk is full",) * 2 + (True,)
        assert parts.worker.next_offset(0) is None
        await give(parts, document(2, "a", unit(0, 1)))
        disk.end()
        await until(lambda: parts.applied(0) == 3)
        await until(lambda: parts.outcome("upsert") == 3 and not is_paused(parts))
        assert sorted(found(parts.worker.shards.open[0], unit(1))) == ["a", "b"]
        assert parts.worker.ready is None


async def test_without_memory_ingestion_pauses_before_it_takes_anything_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.02)
    async with running(tmp_path) as parts:
        refusal: list[str | None] = ["only 5 MiB of memory are left"]
        monkeypatch.setattr(parts.worker.shards, "refusal", lambda: refusal[0])
        await give(parts, document(0, "a", unit(1)))
        await until(lambda: parts.worker.ready == refusal[0] and is_paused(parts))
        assert parts.worker.next_offset(0) is None
        refusal[0] = None
        await until(lambda: parts.applied(0) == 1)
        await until(lambda: parts.worker.ready is None and not is_paused(parts))


@pytest.mark.parametrize("lacks", ["disk", "memory"])
async def test_a_rebalance_during_a_pause_neither_hangs_nor_loses_what_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    async with running(tmp_path) as parts:
        disk = NoRoom(parts, monkeypatch)
        if lacks == "memory":
            disk.end()
            monkeypatch.setattr(parts.worker.shards, "refusal", lambda: "no memory")
        events = [document(0, "a", unit(1)), document(1, "b", unit(1))]
        await give(parts, *events)
        await until(lambda: parts.worker.paused)
        async with asyncio.timeout(5):
            await parts.app.on_partitions_revoked.hook(parts.app, [TP(0), TP(1)])
            await parts.assign(0)
        assert set(parts.worker.shards.open) == {0}
        assert parts.worker.next_offset(0) is None  # so Kafka gives them again
        await give(parts, *events)
        disk.end()
        monkeypatch.setattr(parts.worker.shards, "refusal", lambda: None)
        await until(lambda: parts.applied(0) == 2)
        assert sorted(found(parts.worker.shards.open[0], unit(1))) == ["a", "b"]
        await until(lambda: parts.worker.paused is None and not is_paused(parts))


@pytest.mark.parametrize("lacks", ["disk", "memory"])
async def test_a_drain_during_a_pause_ends_and_leaves_the_records_to_the_next_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    async with running(tmp_path) as parts:
        disk = NoRoom(parts, monkeypatch)
        if lacks == "memory":
            disk.end()
            monkeypatch.setattr(parts.worker.shards, "refusal", lambda: "no memory")
        await give(parts, document(0, "a", unit(1)))
        await until(lambda: parts.worker.paused)
        await asyncio.wait_for(parts.worker.drain(), 5)
        assert parts.worker.next_offset(0) is None


async def test_a_full_disk_of_one_shard_does_not_keep_its_records_from_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as parts:
        disk = NoRoom(parts, monkeypatch)
        await give(parts, document(0, "a", unit(1)))
        await until(lambda: disk.given_up)
        await give(parts, document(1, "a", unit(0, 1)), document(2, "a", unit(0, 0, 1)))
        disk.end()
        await until(lambda: parts.applied(0) == 3)
        (hit,) = parts.worker.shards.open[0].search(unit(0, 0, 1), 1, None, None)
        assert hit.score == pytest.approx(1, abs=1e-3)


async def test_a_shard_that_cannot_be_loaded_stops_the_worker(tmp_path: Path) -> None:
    parts = Parts(tmp_path, [])
    await parts.assign(0)
    parts.worker.shards.failed = MemoryError("too many rows")
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(parts.worker.run(), 5)
    assert caught.group_contains(MemoryError)
    parts.worker.close()


async def test_of_a_shard_that_went_elsewhere_no_gauge_stays(tmp_path: Path) -> None:
    async with running(tmp_path, document(0, "a", unit(1))) as parts:
        await until(lambda: parts.applied(0) == 1)
        value = parts.metrics.registry.get_sample_value
        assert value("headrace_shard_staleness_seconds", {"shard": "0"}) is not None
        await parts.app.on_partitions_revoked.hook(parts.app, [TP(0), TP(1)])
        await parts.assign(1)
        for name in ("staleness_seconds", "documents", "applied_offset", "last_change_timestamp_seconds"):
            assert value(f"headrace_shard_{name}", {"shard": "0"}) is None, name
        assert value("headrace_shard_documents", {"shard": "1"}) is not None


async def test_what_waited_for_a_rebalance_counts_towards_the_objective_and_what_waited_for_the_worker_does_not(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, document(0, "a", unit(1))) as parts:
        await until(lambda: parts.applied(0) == 1)
        shard = parts.worker.shards.open[0]
        parts.worker.opened(0, 5)  # a rebalance that leaves it here, with four records behind
        assert (shard.ready, shard.live) == (False, True)
        parts.worker.rebuild(0, "its log was cut off")
        parts.worker.opened(0, 5)  # a shard that is built anew
        assert not parts.worker.shards.open[0].live
