"""Offsets of our own on the real Faust: an index worker starts where its shards' files end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.event import Event
from app.shard import shard as shard_module
from app.shard import store as store_module
from consumers.index.consumer import ShardConsumer
from tests.unit.consumers import test_index_worker as index
from tests.unit.consumers.broker import Broker, app_on, started
from tests.unit.consumers.parts import until
from tests.unit.shard.parts import NOW_MS, document, shard_settings, unit

DAY_MS = 24 * 3_600_000


class Index:
    """An index worker; what it applied, in order."""

    def __init__(self, folder: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
        settings = shard_settings(folder, **changed)
        self.broker = broker
        self.app = app_on(broker, settings, ShardConsumer, canonical_url="http://me")
        monkeypatch.setattr(index, "FakeFaust", lambda *_: self.app)
        monkeypatch.setattr(index, "shard_settings", lambda _: settings)
        self.worker = index.Parts(folder, []).worker
        self.applied: list[int] = []
        apply = self.worker._apply

        def noting(partition: int, events: list[Event]) -> None:
            apply(partition, events)
            self.applied += [event.offset for event in events]

        monkeypatch.setattr(self.worker, "_apply", noting)

    @asynccontextmanager
    async def running(self, *, at_once: bool = True) -> AsyncIterator[Callable[[], None]]:
        """Faust reads, and the worker applies: from the start, or from when the function that it gives is called."""
        working: list[asyncio.Task[None]] = []

        def begin() -> None:
            working.append(asyncio.create_task(self.worker.run()))

        async with started(self.app):
            if at_once:
                begin()
            try:
                yield begin
            finally:
                for task in working:
                    task.cancel()
                await asyncio.gather(*working, return_exceptions=True)
        self.worker.close()


@pytest.fixture
def broker() -> Broker:
    return Broker("documents.vectors", 0)


def documents(*offsets: int) -> list[Event]:
    return [document(offset, f"d{offset}", unit(1)) for offset in offsets]


async def first_run(folder: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, *offsets: int) -> None:
    parts = Index(folder, broker, monkeypatch)
    async with parts.running():
        broker.write(*documents(*offsets))
        await until(lambda: parts.applied == list(offsets), 20)
    assert broker.committed == {}


async def test_reading_starts_where_the_shard_ends_whatever_the_group_committed(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_run(tmp_path, broker, monkeypatch, 0, 1, 2)
    broker.write(*documents(3, 4))
    for committed in (0, 5):
        broker.committed[broker.tps[0]] = committed
        parts = Index(tmp_path, broker, monkeypatch)
        start = 3 if not committed else 5
        async with parts.running():
            assert broker.sought[-1] == {0: start}
            if committed:
                broker.write(*documents(5))
            await until(
                lambda parts=parts, start=start: parts.worker.next_offset(0) == start + (1 if start == 5 else 2)
            )
    assert broker.committed[broker.tps[0]] == 5


@pytest.mark.parametrize("cut", ["the log is shorter", "its beginning is gone"])
async def test_a_place_that_the_log_does_not_hold_rebuilds_the_shard_and_no_record_vanishes(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    await first_run(tmp_path, broker, monkeypatch, 0, 1, 2)
    again = Broker("documents.vectors", 0)
    offsets = [0, 1] if cut == "the log is shorter" else [7, 8]
    again.write(*documents(*offsets))
    again.first[again.tps[0]] = offsets[0]
    parts = Index(tmp_path, again, monkeypatch)
    async with parts.running():
        again.write(*documents(offsets[-1] + 1))
        await until(lambda: parts.applied == [*offsets, offsets[-1] + 1], 20)
        assert set(index.found(parts.worker.shards.open[0], unit(1))) == {f"d{offset}" for offset in parts.applied}


async def test_a_shard_that_was_read_on_for_a_moment_and_then_missed_a_delete_is_rebuilt(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away for 6 days, open for a second with most of the log before it, away for 6 more: the tombstone is gone."""
    now = [NOW_MS]
    monkeypatch.setattr(shard_module, "now_ms", lambda: now[0])
    monkeypatch.setattr(store_module, "now_ms", lambda: now[0])

    def at(event: Event, day: float) -> Event:
        return event._replace(timestamp_ms=NOW_MS + int(day * DAY_MS))

    a, b, c, d = documents(0, 1, 2, 4)
    for read in ([at(a, 0), at(b, 0)], [at(c, 0.5)]):
        parts = Index(tmp_path, broker, monkeypatch)
        async with parts.running():
            broker.write(*read)
            await until(lambda parts=parts, read=read: parts.worker.next_offset(0) == read[-1].offset + 1, 20)
        now[0] += 6 * DAY_MS
    compacted = Broker("documents.vectors", 0)  # a was deleted on day 1, at offset 3
    compacted.write(at(b, 0), at(c, 0.5), at(d, 12))
    parts = Index(tmp_path, compacted, monkeypatch)
    async with parts.running():
        await until(lambda: parts.applied == [1, 2, 4], 20)
        assert set(index.found(parts.worker.shards.open[0], unit(1))) == {"d1", "d2", "d4"}


async def test_a_shard_with_nothing_left_to_read_is_not_rebuilt_however_long_nothing_was_written(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_run(tmp_path, broker, monkeypatch, 0, 1)
    monkeypatch.setattr(shard_module, "now_ms", lambda: store_module.now_ms() + 365 * DAY_MS)
    parts = Index(tmp_path, broker, monkeypatch)
    async with parts.running():
        assert broker.sought[-1] == {0: 2}
        assert parts.worker.shards.open[0].may_miss_deletes
        broker.write(*documents(2))
        await until(lambda: parts.applied == [2], 20)


async def test_of_two_seeks_at_once_the_second_waits_for_the_first(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Index(tmp_path, broker, monkeypatch)
    asked = [0]
    earliest = broker.earliest_offsets

    async def counting(*tps: Any) -> Any:
        asked[0] += 1
        return await earliest(*tps)

    broker.earliest_offsets = counting  # type: ignore[method-assign]
    async with parts.running():
        broker.gate.clear()
        asked[0] = 0
        seeks = [asyncio.create_task(parts.app.consumer.perform_seek()) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert asked == [1]
        broker.gate.set()
        await asyncio.wait_for(asyncio.gather(*seeks), 10)
        assert asked[0] > 1


async def test_after_a_rebalance_under_a_full_inbox_every_record_is_applied_once_and_in_order(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent holds a record for which there is room once the inbox is emptied, while the generation is the old."""
    parts = Index(tmp_path, broker, monkeypatch, inbox_max_events=8)
    inbox, others_are_done = parts.worker._inbox, asyncio.Event()

    async with parts.running(at_once=False) as begin:
        broker.write(*documents(*range(30)))
        await until(lambda: not inbox._room.is_set())
        await asyncio.sleep(0.05)  # until the agent waits
        let_go = parts.app.consumer.on_partitions_revoked

        async def while_others_work(revoked: Any) -> None:
            await let_go(revoked)
            await others_are_done.wait()

        monkeypatch.setattr(parts.app.consumer, "on_partitions_revoked", while_others_work)
        rebalance = asyncio.create_task(broker.rebalance(0))
        await until(lambda: inbox._drops[0])
        begin()
        await asyncio.sleep(0.1)
        others_are_done.set()
        await asyncio.wait_for(rebalance, 10)
        await until(lambda: parts.worker.next_offset(0) == 30 and len(parts.applied) >= 30, 20)
        assert parts.applied == list(range(30))
