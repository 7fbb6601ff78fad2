"""Any history through the whole pipeline into real shards: what they hold in the end is what the events say, and a
shard that knows only the compacted log holds the same."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from app.embed.coalesce import content_hash
from app.event import Event
from app.kafka.producer import Record
from app.shard.shard import Shard
from schemas.document_change import decode_change
from schemas.errors import BrokerUnavailable
from schemas.headers import decode_headers
from tests.property.test_embed_pipeline import _Troubles as Troubles
from tests.property.test_order import histories
from tests.unit.embed.parts import NOW_MS, Content, GappyApplied, IndexModel, Parts, event, one_by_one, raw_event
from tests.unit.shard.parts import shard_settings

EXAMPLES = settings(max_examples=60, deadline=None)
Version = int | None
State = tuple[Content, Version]


def produced(events: Sequence[Event], data: st.DataObject) -> list[Record]:
    """What an embed worker writes to the vectors topic: batches of any size, crashes, any suffix that was not
    committed once more, Redis flushed, away, or an older copy of itself."""
    applied = GappyApplied()
    parts = Parts(applied=applied)
    troubles = Troubles(parts, applied, data)
    position = committed = rounds = 0
    while position < len(events):
        rounds += 1
        troubles.draw() if rounds < 8 else troubles.clear()
        end = data.draw(st.integers(position + 1, len(events)), label="batch ends")
        first = {0: 0, 1: 0} | {item.partition: item.offset + 1 for item in events[:position]}
        try:
            parts.pipeline.process(events[position:end], lambda _: True, first)
            position = end
        except (BrokerUnavailable, KeyboardInterrupt):
            parts.restart()
        if rounds < 8:
            committed = data.draw(st.integers(committed, position), label="committed")
            if data.draw(st.integers(0, 3), label="goes on") == 0:
                position = committed
    return [record for record in parts.producer.log if record.topic == "d.vectors"]


def delivered(records: Sequence[Record], offsets: Sequence[int], partition: int) -> list[Event]:
    """The records of one partition as an index worker gets them."""
    return [
        Event(partition, offset, record.key, record.value, tuple(record.headers), 0, NOW_MS * 1_000_000)
        for offset, record in zip(offsets, records, strict=True)
    ]


class Live:
    """A shard, the log that it follows, and the rule that what it refuses as stale is followed by what it holds.

    The last record of a key is all that compaction keeps: were it a stale one, a shard that is built anew would hold
    that. Also one of the same change which knows less of the versions before.
    """

    def __init__(self, shard: Shard, partition: int) -> None:
        self.shard, self.partition = shard, partition
        self.log: list[Record] = []
        self.held: dict[bytes, Record] = {}

    def follow(self, records: Sequence[Record], data: st.DataObject) -> None:
        rest = list(records)
        while rest:
            size = data.draw(st.integers(1, len(rest)), label="transaction")
            start = len(self.log)
            taken, rest = rest[:size], rest[size:]
            self.log += taken
            for at, record in enumerate(taken, start):
                self._apply(record, at)
            again = data.draw(st.integers(0, len(self.log)), label="redelivered from")
            change = self.shard.apply(delivered(self.log[again:], range(again, len(self.log)), self.partition))
            assert set(change.outcomes) <= {"redelivered"}
            self._repair(start)

    def _apply(self, record: Record, offset: int) -> None:
        (outcome,) = self.shard.apply(delivered([record], [offset], self.partition)).outcomes
        if outcome in ("upsert", "delete"):
            self.held[record.key or b""] = record

    def _repair(self, start: int) -> None:
        for record in self.log[start:]:
            again = self.held.get(record.key or b"")
            if again is None or not self._misleads(record):
                continue
            headers = decode_headers(again.headers)
            row = self.shard.document((record.key or b"").decode())
            assert row is not None
            floor = row.version if headers.version is None else None
            repaired = replace(again, headers=replace(headers, version_floor=floor).encode())
            self.log.append(repaired)
            self._apply(repaired, len(self.log) - 1)

    def _misleads(self, record: Record) -> bool:
        told, row = decode_headers(record.headers), self.shard.document((record.key or b"").decode())
        assert row is not None
        known = told.version if told.version is not None else told.version_floor
        return (told.source_offset, known) != (row.source_offset, row.version)

    def compacted(self) -> list[tuple[int, Record]]:
        """The last record of each key, in the order and at the offsets of the log."""
        last = {record.key: offset for offset, record in enumerate(self.log)}
        return [(offset, self.log[offset]) for offset in sorted(last.values())]


def opened(folder: Path, partition: int) -> Shard:
    shard = Shard(partition, folder / f"shard-{partition}.sqlite", "epoch", shard_settings(folder))
    shard.load()
    return shard


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="log-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def state(shard: Shard, ids: str) -> dict[str, State | None]:
    """Of each document what can be found and its version; None where the shard has never seen it."""
    found: dict[str, State | None] = {}
    for document_id in ids:
        row = shard.document(document_id)
        content = None if row is None or row.deleted else (row.text or "", row.title, row.metadata)
        found[document_id] = None if row is None else (content, row.version)
    return found


def reference(events: Sequence[Event], partition: int, ids: str) -> dict[str, State | None]:
    """Each event applied alone, in order."""
    model = IndexModel()
    for item in events:
        if item.partition == partition and item.value != b"{":
            model.apply_event(item)
    keys = {document_id: (partition, document_id) for document_id in ids}
    return {
        name: (model.contents[key], model.orders[key].version) if key in model.orders else None
        for name, key in keys.items()
    }


@EXAMPLES
@given(histories(poison=True), st.data())
def test_shards_hold_what_the_events_say_and_so_do_those_built_from_the_compacted_log(
    events: list[Event], data: st.DataObject
) -> None:
    records = produced(events, data)
    for partition in sorted({item.partition for item in events}):
        with scratch() as folder, closing(opened(folder, partition)) as shard:
            live = Live(shard, partition)
            live.follow([record for record in records if record.partition == partition], data)
            (folder / "anew").mkdir()
            wanted = reference(events, partition, "abc")
            assert state(shard, "abc") == wanted
            with closing(opened(folder / "anew", partition)) as anew:
                for offset, record in live.compacted():
                    anew.apply(delivered([record], [offset], partition))
                assert state(anew, "abc") == wanted
                assert (anew.status().applied_offset or -1) <= (shard.status().applied_offset or -1)


def test_a_delete_that_did_not_know_the_version_of_its_document_must_be_written_again_with_it(tmp_path: Path) -> None:
    """It is no stale record, the shard takes it, and yet it misleads who has nothing else: an older version comes back.

    The counterexample to repairing stale records alone.
    """
    applied = GappyApplied()
    parts = Parts(applied=applied)
    for item in (event(0, "a", "text", version=2), raw_event(1, b"a", None)):
        applied.away = item.offset == 1
        parts.pipeline.process([item], lambda _: True, {0: item.offset})
    late = Parts()
    late.process(event(2, "a", "older", version=1))
    upsert, delete = (record for record in parts.producer.log if record.key == b"a")
    assert decode_headers(delete.headers).version_floor is None
    with closing(opened(tmp_path, 0)) as shard:
        live = Live(shard, 0)
        live.log = [upsert, delete]
        live._apply(upsert, 0)
        live._apply(delete, 1)
        live._repair(0)
        ((offset, repaired),) = live.compacted()
    for name, last, comes_back in (("unrepaired", delete, True), ("repaired", repaired, False)):
        (tmp_path / name).mkdir()
        with closing(opened(tmp_path / name, 0)) as anew:
            anew.apply(delivered([last, late.producer.log[0]], [offset, offset + 1], 0))
            assert (state(anew, "a")["a"] == (("older", None, {}), 1)) == comes_back


@given(st.permutations([1, 2, 3, 4]), st.lists(st.integers(0, 3), max_size=3), st.integers(1, 4))
def test_events_in_any_order_and_any_number_of_times_leave_the_highest_version(
    order: list[int], doubles: list[int], deleted: int
) -> None:
    """Where every change has a version, neither the order of arrival nor a duplicate decides."""
    versions = [*order, *(order[at] for at in doubles)]
    events = [
        event(offset, "a", None if version == deleted else f"text {version}", version=version)
        for offset, version in enumerate(versions)
    ]
    left = one_by_one(events)
    assert left == ({} if deleted == 4 else {(0, "a"): ("text 4", None, {})})


@given(st.integers(1, 4), st.none() | st.integers(0, 4), st.booleans())
def test_a_null_value_after_an_explicit_delete_changes_nothing_but_the_offset(
    deleted: int, late: int | None, null: bool
) -> None:
    """Debezium writes both. A version that was deleted, or an older one, does not come back by it."""
    events = [event(0, "a", "text", version=1), event(1, "a", version=deleted)]
    events += [raw_event(2, b"a", None)] if null else []
    events.append(event(3, "a", "late", version=late))
    came_back = late is None or late > deleted or (late == deleted)
    assert bool(one_by_one(events)) == came_back


def test_the_hash_of_two_changes_with_different_versions_differs() -> None:
    """Else a duplicate with a higher version would be left out, and a late change between the two taken."""
    one, two = (event(0, "a", "x", version=version) for version in (1, 2))
    assert content_hash(decode_change(one.key, one.value)) != content_hash(decode_change(two.key, two.value))
