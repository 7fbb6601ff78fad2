"""The audit that always runs: what a shard lacks of its topic is counted, told once, and gone when it is mended."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.audit import light as module
from app.audit.light import LightAudit
from app.event import Event
from app.observe.metrics import IndexMetrics
from app.shard.shards import Shards
from schemas.errors import BrokerUnavailable
from tests.services_local import eventually
from tests.unit.shard.parts import EPOCH, delete, document, shard_settings, unit, watermark

LOG = [
    document(0, "a", unit(1)),
    document(1, "b", unit(1)),
    watermark(2, 1),
    delete(3, "b"),
    document(4, "c", unit(1)),
    document(5, "foreign", unit(1), epoch="another"),
    document(6, "d", unit(1)),
]


class Reader:
    """A topic with these records."""

    log: list[Event] = LOG
    away = False

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def span(self, *_: object) -> tuple[int, int]:
        if self.away:
            raise BrokerUnavailable("away")
        return 0, len(self.log)

    def read(self, _topic: str, spans: dict[int, tuple[int, int]]) -> Iterator[Event]:
        ((start, end),) = spans.values()
        yield from self.log[start:end]

    def close(self) -> None:
        pass


class Watched:
    """One shard that has applied the log, and its audit."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        settings = shard_settings(folder, **changed)
        self.shards = Shards(settings, EPOCH)
        self.shards.acquire({0})
        self.shards.open[0].apply(LOG)
        self.metrics = IndexMetrics()
        self.audit = LightAudit(settings, self.shards, self.metrics)
        (self.path,) = folder.rglob("shard-0.sqlite")

    def sql(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    @property
    def drift(self) -> float:
        return self.metrics.shards.drift.get(0, 0)

    @property
    def audited(self) -> float:
        return self.metrics.audited._value.get()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(module, "TopicReader", Reader)
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 0.0)
    monkeypatch.setattr(Reader, "away", False)
    made = Watched(tmp_path, audit_interval_s=0.01)
    yield made
    made.shards.close()


def test_a_shard_that_holds_what_its_topic_says_has_no_drift(watched: Watched) -> None:
    watched.audit.look()
    assert (watched.drift, watched.audited) == (0, 4)


def test_what_is_missing_or_old_is_counted_and_told_once_and_mending_it_ends_that(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.sql("DELETE FROM documents WHERE id = 'a'")
    watched.sql("UPDATE documents SET source_offset = 1, deleted = 0 WHERE id = 'b'")
    with caplog.at_level(logging.ERROR, "headrace.audit"):
        watched.audit.look()
        watched.audit.look()
    assert watched.drift == 2
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["a", "b"]
    assert "headrace audit" in caplog.text

    watched.sql("UPDATE documents SET source_offset = 3, deleted = 1 WHERE id = 'b'")
    watched.audit.look()
    assert watched.drift == 1


def test_what_was_found_is_looked_at_again_whatever_the_next_slice_is(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.sql("DELETE FROM documents WHERE id = 'a'")
    watched.audit.look()
    monkeypatch.setattr(module, "SLICE_RECORDS", 1)
    monkeypatch.setattr(module.random, "randint", lambda _first, last: last)
    watched.audit.look()
    assert watched.drift == 1


def test_records_that_the_shard_has_not_applied_yet_are_no_drift(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "log", [*LOG, document(7, "later", unit(1))])
    watched.audit.look()
    assert watched.drift == 0


async def test_it_goes_on_when_kafka_is_away_and_ends_when_it_is_cancelled(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "away", True)
    task = asyncio.create_task(watched.audit.run())
    await asyncio.sleep(0.1)
    assert not task.done()
    assert watched.audited == 0
    monkeypatch.setattr(Reader, "away", False)
    await asyncio.to_thread(eventually, lambda: watched.audited)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_interval_of_0_is_no_audit(tmp_path: Path) -> None:
    shards = Shards(shard_settings(tmp_path), EPOCH)
    try:
        async with asyncio.timeout(5):
            await LightAudit(shard_settings(tmp_path, audit_interval_s=0), shards, IndexMetrics()).run()
    finally:
        shards.close()
