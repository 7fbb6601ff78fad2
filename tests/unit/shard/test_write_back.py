"""What a shard writes to the topics: what an older record covered, and what it cannot apply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.event import Event
from app.observe.metrics import IndexMetrics
from app.settings import Settings
from app.shard import write_back as module
from app.shard.shard import Shard
from app.shard.write_back import WriteBack
from schemas.dead_letter import decode_dead_letter
from schemas.errors import BrokerUnavailable, FingerprintMismatch
from schemas.headers import decode_headers
from tests.unit.embed.parts import LogProducer
from tests.unit.shard.parts import EPOCH, NOW_MS, delete, document, open_shard, unit, watermark


class Parts:
    """A shard, its log, and what writes back to it; `now` is the clock in seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shard = open_shard(folder / "live")
        self.log: list[Event] = []
        self.producer: Any = LogProducer()
        self.metrics = IndexMetrics()
        self.now = 0.0
        self.write_back = WriteBack(Settings(_env_file=None), EPOCH, self.producer, self.metrics, lambda: self.now)

    def read(self, *events: Event) -> dict[str, int]:
        numbered = [event._replace(offset=len(self.log) + n) for n, event in enumerate(events)]
        self.log += numbered
        return dict(self.shard.apply(numbered).outcomes)

    def rounds(self, count: int = 2) -> int:
        """Let it write; the shard reads what was written. Returns how many records that were."""
        for _ in range(count):
            self.now += 1
            self.shard.outbox.dead_lettered(self.write_back.run(self.shard))
        written = [record for record in self.producer.take() if record.topic == "documents.vectors"]
        self.read(*(Event(0, 0, item.key, item.value, tuple(item.headers), NOW_MS, NOW_MS * 10**6) for item in written))
        return len(written)

    def rebuilt(self) -> Shard:
        """From what compaction leaves of the log."""
        last = {event.key: event for event in self.log}
        shard = open_shard(self.folder / f"rebuilt-{len(self.log)}")
        shard.apply(sorted(last.values(), key=lambda event: event.offset))
        return shard


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path)
    yield made
    made.shard.close()


def what(shard: Shard, document_id: str) -> tuple[Any, ...] | None:
    held = shard.document(document_id)
    if held is None:
        return None
    whole = shard.whole(held.doc)
    assert whole is not None
    return (
        *(held.deleted, held.version, held.source_offset, held.text, held.title, held.metadata, held.event_time_ms),
        *(whole.content_hash, whole.spans, whole.vectors.tobytes()),
    )


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (
            document(0, "a", [unit(1), unit(0, 1)], source_offset=9, metadata={"n": 1}, event_time_ms=5),
            document(0, "a", unit(0, 1), source_offset=3),
        ),
        (
            document(0, "a", unit(1), source_offset=3, version=2),
            document(0, "a", unit(0, 1), source_offset=9, version=1),
        ),
        (document(0, "a", [], source_offset=9, text=""), document(0, "a", unit(0, 1), source_offset=3)),
        (delete(0, "a", source_offset=9), document(0, "a", unit(0, 1), source_offset=3)),
        (document(0, "a", unit(1), source_offset=9), delete(0, "a", source_offset=3)),
        (delete(0, "a", source_offset=3, version=7), document(0, "a", unit(1), source_offset=9, version=6)),
    ],
)
def test_a_shard_built_from_the_compacted_topic_is_the_one_that_lives(parts: Parts, newer: Event, older: Event) -> None:
    parts.read(document(0, "b", unit(0, 0, 1), source_offset=1), newer)
    assert parts.read(older) == {"stale": 1}
    before = parts.rebuilt()
    assert what(before, "a") != what(parts.shard, "a"), "compaction has kept the older record"
    before.close()
    assert parts.rounds() == 1
    assert parts.rounds() == 0, "its own record says that it is done"
    rebuilt = parts.rebuilt()
    for document_id in "ab":
        assert what(rebuilt, document_id) == what(parts.shard, document_id)
    rebuilt.close()
    assert parts.metrics.registry.get_sample_value("headrace_index_repairs_total") == 1


def test_what_was_just_repaired_and_is_covered_again_does_not_wait_as_if_its_repair_were_under_way(
    parts: Parts,
) -> None:
    """A version that is known no more, in one change after another: a shard that is rebuilt meanwhile lacks it."""
    parts.read(document(0, "a", unit(1), source_offset=3, version=7), document(0, "a", unit(1), source_offset=4))
    assert parts.rounds() == 1
    parts.read(document(0, "a", unit(0, 1), source_offset=5))
    assert parts.rounds() == 1
    rebuilt = parts.rebuilt()
    assert what(rebuilt, "a") == what(parts.shard, "a")
    rebuilt.close()


def test_a_repair_outlives_the_process(parts: Parts) -> None:
    parts.read(document(0, "a", unit(1), source_offset=9), document(0, "a", unit(0, 1), source_offset=3))
    parts.shard.close()
    parts.shard = open_shard(parts.folder / "live")
    assert parts.rounds() == 1


def test_what_the_topic_says_further_on_needs_no_repair(parts: Parts) -> None:
    parts.read(document(0, "a", unit(1), source_offset=9), document(0, "a", unit(0, 1), source_offset=3))
    assert parts.rounds(1) == 0
    parts.read(document(0, "a", unit(1), source_offset=10))
    assert parts.rounds() == 0


def test_a_repair_that_is_not_seen_in_the_topic_is_written_again(parts: Parts) -> None:
    parts.read(document(0, "a", unit(1), source_offset=9), document(0, "a", unit(0, 1), source_offset=3))
    parts.producer.error, parts.producer.lose = BrokerUnavailable("gone"), 0
    parts.now = 1
    assert parts.write_back.run(parts.shard) == []
    parts.now = 2
    with pytest.raises(BrokerUnavailable):
        parts.write_back.run(parts.shard)
    parts.producer.error = parts.producer.lose = None
    parts.now = 40
    assert parts.rounds() == 1


def owed(parts: Parts) -> set[str]:
    """Documents to be repaired, by what is remembered; the file says the same."""
    remembered = set(parts.shard.outbox.repairs)
    assert {doc for (doc,) in parts.shard._store.writer.execute("SELECT doc FROM repairs")} == remembered
    names = parts.shard._store.writer.execute("SELECT doc, id FROM documents")
    return {name for doc, name in names if doc in remembered}


def test_what_is_owed_is_as_before_when_the_transaction_fails(parts: Parts) -> None:
    newer = [document(0, name, unit(1), source_offset=9) for name in "abcd"]
    older = [document(0, name, unit(0, 1), source_offset=3) for name in "abc"]
    parts.read(*newer, *older[:2])
    before = parts.shard.outbox.repairs
    again = [
        document(0, "a", unit(1), source_offset=10),
        older[1],
        older[2],
        document(0, "c", unit(1), source_offset=11),
    ]
    again += [document(0, "a", unit(0, 1), source_offset=3), document(0, "d", unit(0, 1), source_offset=3)]
    with pytest.raises(FingerprintMismatch):
        parts.read(*again, document(0, "e", unit(1), fingerprint="other"))
    del parts.log[-len(again) - 1 :]
    assert parts.shard.outbox.repairs == before
    assert owed(parts) == {"a", "b"}
    parts.read(*again)
    assert owed(parts) == {"a", "b", "d"}
    assert {before[doc] for doc in before} & {*parts.shard.outbox.repairs.values()} == {before[2]}, "that of b"


def test_more_than_a_round_holds_is_written_in_turns_none_twice_before_all_were(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_RECORDS", 2)
    monkeypatch.setattr(module, "_AGAIN_S", 0.5)
    for name in "abcde":
        parts.read(document(0, name, unit(1), source_offset=9), document(0, name, unit(0, 1), source_offset=3))
    written = []
    for _ in range(6):
        parts.now += 1
        parts.write_back.run(parts.shard)
        written += [(record.key or b"").decode() for record in parts.producer.take()]
    assert written == ["a", "b", "c", "d", "e", "a", "b", "c", "d", "e"]


def test_of_large_records_a_round_writes_few_and_the_next_goes_on(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 2000)
    for name in "abcd":
        parts.read(
            document(0, name, unit(1), source_offset=9, text="x" * 900),
            document(0, name, unit(0, 1), source_offset=3),
            document(0, name.upper(), unit(1))._replace(value=b"damaged" * 100),
        )
    parts.read(document(0, "E", unit(1))._replace(value=b"damaged" * 1000))
    rounds = []
    for _ in range(6):
        parts.now += 1
        parts.shard.outbox.dead_lettered(parts.write_back.run(parts.shard))
        rounds.append("".join((record.key or b"").decode() for record in parts.producer.take()))
    assert rounds == ["ABC", "DE", "ab", "cd", "", ""]


def test_a_record_that_does_not_know_the_version_its_document_has_is_completed(parts: Parts) -> None:
    """A worker without Redis wrote it; from the topic alone a shard would let in what is older than that version."""
    parts.read(document(0, "a", unit(1), source_offset=1, version=2))
    assert parts.read(delete(0, "a", source_offset=2)) == {"delete": 1}
    assert parts.rounds() == 1
    rebuilt = parts.rebuilt()
    assert what(rebuilt, "a") == what(parts.shard, "a")
    late = document(0, "a", unit(1), source_offset=9, version=1)._replace(offset=99)
    assert dict(rebuilt.apply([late]).outcomes) == {"stale": 1}
    rebuilt.close()


def test_of_two_shards_that_know_different_versions_both_end_with_the_higher(parts: Parts, tmp_path: Path) -> None:
    parts.read(document(0, "a", unit(1), source_offset=1, version=8), delete(0, "a", source_offset=5))
    other = open_shard(tmp_path / "other")
    assert dict(other.apply([parts.log[-1]]).outcomes) == {"delete": 1}
    assert parts.rounds() == 1
    assert dict(other.apply([parts.log[-1]]).outcomes) == {"delete": 1}
    assert what(other, "a") == what(parts.shard, "a")
    other.close()


@pytest.mark.parametrize("key", [b"b", b"", None, b"\xff"])
def test_a_record_whose_key_is_not_its_document_is_rejected(parts: Parts, key: bytes | None) -> None:
    """Compaction goes by the key."""
    assert parts.read(document(0, "a", unit(1))._replace(key=key)) == {"rejected": 1}


@pytest.mark.parametrize("key", [b"", None, b"\xff"])
def test_a_delete_without_a_document_is_rejected(parts: Parts, key: bytes | None) -> None:
    assert parts.read(delete(0, "a")._replace(key=key)) == {"rejected": 1}


def test_the_same_record_again_is_no_reason_to_repair(parts: Parts) -> None:
    event = document(0, "a", unit(1), source_offset=9)
    parts.read(event)
    assert parts.read(event) == {"repeated": 1}
    assert parts.rounds() == 0


def test_the_same_change_with_other_chunks_replaces_what_is_held(parts: Parts) -> None:
    parts.read(document(0, "a", unit(1), source_offset=9, version=4, text="x"))
    assert parts.read(document(0, "a", unit(0, 1), source_offset=9, version=4, text="x")) == {"upsert": 1}
    assert parts.read(document(0, "a", unit(0, 1), source_offset=9, version_floor=2, text="y")) == {"upsert": 1}
    held = parts.shard.document("a")
    assert held is not None
    assert (held.text, held.version, held.source_offset) == ("y", 4, 9)
    rebuilt = parts.rebuilt()
    assert [hit.document.text for hit in rebuilt.search(unit(0, 1), 5, None, None)] == ["y"]
    rebuilt.close()


def test_vectors_that_differ_by_rounding_are_the_same_again(parts: Parts) -> None:
    parts.read(document(0, "a", unit(1, 0.5), source_offset=9))
    assert parts.read(document(0, "a", unit(1, 0.501), source_offset=9)) == {"repeated": 1}


def test_a_record_that_cannot_be_applied_becomes_a_dead_letter_as_it_came(parts: Parts) -> None:
    bad = document(0, "a", unit(1))._replace(value=b"damaged", headers=(("mine", b"\xff\x00"), ("none", None)))
    good = document(0, "b", unit(1), source_offset=1)
    assert parts.read(bad, good) == {"rejected": 1, "upsert": 1}
    parts.shard.close()
    parts.shard = open_shard(parts.folder / "live")
    parts.shard.outbox.dead_lettered(parts.write_back.run(parts.shard))
    (letter,) = parts.producer.take()
    assert (letter.topic, letter.key, letter.value) == ("documents.dlq", b"a", b"damaged")
    assert tuple(letter.headers[:2]) == (("mine", b"\xff\x00"), ("none", None))
    told = decode_dead_letter(letter.headers)
    assert (told.topic, told.partition, told.offset, told.stage) == ("documents.vectors", 0, 0, "index")
    assert (told.error_class, "headrace-kind" in told.message) == ("InvalidVectorRecord", True)
    assert parts.write_back.run(parts.shard) == []


def test_a_dead_letter_is_written_once_however_long_the_disk_refuses_to_forget_it(parts: Parts) -> None:
    def letters(forgets: bool) -> list[bytes]:
        done = parts.write_back.run(parts.shard)
        assert done == sorted(done)
        if forgets:
            parts.shard.outbox.dead_lettered(done)
        return [record.key or b"" for record in parts.producer.take()]

    def damaged(key: str) -> Event:
        return document(0, key, unit(1))._replace(value=b"damaged")

    parts.read(damaged("a"))
    assert [letters(forgets=False) for _ in range(3)] == [[b"a"], [], []]
    parts.read(damaged("b"))
    assert [letters(forgets=False) for _ in range(2)] == [[b"b"], []]
    assert (letters(forgets=True), parts.shard.outbox.rejected(9)) == ([], [])
    parts.read(damaged("c"))
    parts.producer.error, parts.producer.lose = BrokerUnavailable("gone"), 0
    with pytest.raises(BrokerUnavailable):
        letters(forgets=True)
    parts.producer.error = parts.producer.lose = None
    parts.producer.take()
    assert [letters(forgets=True) for _ in range(2)] == [[b"c"], []]


def test_a_damaged_record_does_not_take_the_place_of_the_one_that_it_covers(parts: Parts) -> None:
    parts.read(document(0, "a", unit(1), source_offset=9))
    assert parts.read(document(0, "a", unit(0, 1), source_offset=10)._replace(value=b"damaged")) == {"rejected": 1}
    assert parts.rounds() == 1
    rebuilt = parts.rebuilt()
    assert what(rebuilt, "a") == what(parts.shard, "a")
    rebuilt.close()


@pytest.mark.parametrize("held", [document(0, "a", unit(1), source_offset=9), delete(0, "a", source_offset=9)])
@pytest.mark.parametrize(
    "foreign",
    [document(0, "a", unit(0, 1), source_offset=10, epoch="older"), delete(0, "a", source_offset=10, epoch="older")],
)
def test_a_record_of_another_life_of_the_topics_does_not_take_the_place_of_the_one_that_it_covers(
    parts: Parts, held: Event, foreign: Event
) -> None:
    parts.read(held)
    unknown = document(0, "b", unit(1), epoch="older")
    assert parts.read(foreign, unknown, watermark(0, 99, epoch="older")) == {"foreign_epoch": 3}
    assert parts.rounds() == 1
    assert parts.rounds() == 0
    rebuilt = parts.rebuilt()
    assert what(rebuilt, "a") == what(parts.shard, "a")
    rebuilt.close()


def test_a_repair_claims_no_more_than_its_shard_has_reached(parts: Parts) -> None:
    parts.read(
        document(0, "a", unit(1), source_offset=9, through=12), document(0, "a", unit(0, 1), source_offset=3, through=3)
    )
    parts.now = 1
    parts.write_back.run(parts.shard)
    parts.now = 2
    parts.write_back.run(parts.shard)
    told = decode_headers(parts.producer.take()[0].headers)
    assert (told.through, told.as_of_ms, told.epoch) == (12, NOW_MS + 9, EPOCH)
