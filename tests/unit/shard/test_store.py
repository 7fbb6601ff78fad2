"""The file of a shard: rows and offset change together, and a file that cannot be continued is set aside."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from app.event import Event
from app.shard import apply as apply_module
from app.shard import shard as shard_module
from app.shard import store as module
from app.shard.apply import Applier
from app.shard.shard import Shard
from app.shard.store import ShardStore
from schemas.errors import FingerprintMismatch, ShardCorrupt, StorageFull
from schemas.vector_record import VectorRecord, encode_vector_record
from tests.unit.shard.parts import (
    NOW_MS,
    delete,
    document,
    found,
    headers,
    open_shard,
    record_event,
    shard_settings,
    unit,
    watermark,
)

WEEK_MS = 7 * 24 * 3_600_000


def file_of(folder: Path) -> Path:
    return folder / "shard-0.sqlite"


def aside(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.unusable-*"))


def closed_shard(folder: Path) -> None:
    """A file with one document."""
    shard = open_shard(folder)
    shard.apply([document(0, "a", unit(1)), watermark(1, 7)])
    shard.close()


def test_a_shard_goes_on_where_its_file_ends(tmp_path: Path) -> None:
    closed_shard(tmp_path)
    shard = open_shard(tmp_path)
    status = shard.status()
    assert (status.next_offset, status.applied_offset, status.documents, status.chunks) == (2, 7, 1, 1)
    assert (status.fingerprint, found(shard, unit(1))) == ("m", ["a"])
    shard.close()


def test_an_error_in_the_middle_of_a_transaction_changes_nothing_on_disk_and_nothing_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = open_shard(tmp_path)
    shard.apply([document(0, "a", unit(1)), document(1, "b", unit(0, 1))])
    before = shard.status()
    update = [document(2, "a", unit(0, 0, 1)), delete(3, "b"), document(4, "c", unit(1, 1)), watermark(5, 9)]
    original, calls = Applier._apply_one, [0]

    def dies_at_the_last(*arguments: object) -> str:
        calls[0] += 1
        if calls[0] == len(update):
            raise OSError("disk full")
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Applier, "_apply_one", dies_at_the_last)
        with pytest.raises(OSError, match="disk full"):
            shard.apply(update)
    assert shard.status() == before
    assert found(shard, unit(1)) == ["a", "b"]
    assert [shard.document(name) is not None for name in "abc"] == [True, True, False]

    shard.apply(update)
    assert found(shard, unit(1)) == ["c", "a"]
    assert (shard.status().documents, shard.status().applied_offset, shard.next_offset) == (2, 9, 6)
    shard.close()


def test_a_full_disk_changes_nothing_and_the_same_records_are_applied_once_there_is_room(tmp_path: Path) -> None:
    shard = open_shard(tmp_path)
    shard.apply([document(0, "a", unit(1))])
    before = shard.status()
    writer = shard._store.writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite then says is what it says of a full disk
    records = [document(n, f"d{n}", unit(1, n), text="x" * 5000) for n in range(1, 9)]
    for _ in range(2):
        with pytest.raises(StorageFull, match="make room"):
            shard.apply(records)
    assert shard.status() == before
    assert found(shard, unit(1)) == ["a"]
    writer.execute("PRAGMA max_page_count = 100000")
    shard.apply(records)
    assert len(found(shard, unit(1))) == 9
    shard.close()


def test_a_file_with_a_damaged_page_is_set_aside_and_the_next_start_begins_anew(tmp_path: Path) -> None:
    shard = open_shard(tmp_path)
    shard.apply([document(n, f"d{n}", unit(1, n), text="x" * 3000) for n in range(20)])
    shard.close()
    content = bytearray(file_of(tmp_path).read_bytes())
    content[12 * 4096 :] = b"\xff" * (len(content) - 12 * 4096)
    file_of(tmp_path).write_bytes(content)
    damaged = Shard(0, file_of(tmp_path), "epoch", shard_settings(tmp_path))
    with pytest.raises(ShardCorrupt, match="set aside"):
        damaged.load()
    damaged.close()
    (kept,) = aside(tmp_path)
    assert kept.read_bytes() == content
    assert open_shard(tmp_path).next_offset is None


def test_labels_are_never_given_twice_even_over_deletes_and_restarts(tmp_path: Path) -> None:
    seen: list[int] = []
    for offset in range(0, 12, 2):
        shard = open_shard(tmp_path)
        seen += shard.apply([document(offset, "a", [unit(1), unit(0, 1)])]).labels
        shard.apply([delete(offset + 1, "a")])
        assert shard.status().chunks == 0
        shard.close()
    assert len(seen) == 12
    assert seen == sorted(set(seen))


def _offsets(folder: Path) -> int | None:
    shard = open_shard(folder)
    offset = shard.next_offset
    shard.close()
    return offset


def make_garbage(folder: Path) -> None:
    file_of(folder).write_bytes(b"this is no database" * 100)


def make_empty_database(folder: Path) -> None:
    sqlite3.connect(file_of(folder)).close()
    file_of(folder).touch()


def make_other_format(folder: Path) -> None:
    closed_shard(folder)
    with sqlite3.connect(file_of(folder)) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
    connection.close()


def make_cut_short(folder: Path) -> None:
    closed_shard(folder)
    file_of(folder).write_bytes(file_of(folder).read_bytes()[:1000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_garbage, "is not a shard file"),
        (make_empty_database, "is not a shard file"),
        (make_other_format, "has format 99, this program writes 2"),
        (make_cut_short, "is not a shard file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_file_that_cannot_be_continued_is_kept_aside_and_the_shard_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path)
    content = file_of(tmp_path).read_bytes()
    with caplog.at_level(logging.WARNING, "headrace.shard"):
        shard = open_shard(tmp_path)
    assert (shard.next_offset, shard.status().documents) == (None, 0)
    assert [path.read_bytes() for path in aside(tmp_path)] == [content]
    assert reason in caplog.text
    assert "rebuilding from the vectors topic" in caplog.text
    shard.apply([document(0, "a", unit(1))])
    shard.close()
    assert _offsets(tmp_path) == 1


@pytest.fixture
def now_ms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock of shards."""
    now = [NOW_MS + 100 * WEEK_MS]
    for used in (module, shard_module, apply_module):
        monkeypatch.setattr(used, "now_ms", lambda: now[0])
    return now


def written(event: Event, when_ms: int) -> Event:
    """As Kafka took it then."""
    return event._replace(timestamp_ms=when_ms)


def test_a_file_that_was_read_on_for_a_moment_is_as_old_as_its_place_in_the_topic(
    tmp_path: Path, now_ms: list[int]
) -> None:
    made = now_ms[0]
    shard = open_shard(tmp_path)
    shard.apply([written(document(0, "a", unit(1)), made)])
    shard.close()
    now_ms[0] += WEEK_MS - 1000
    shard = open_shard(tmp_path)
    assert not shard.may_miss_deletes
    shard.apply([written(document(1, "b", unit(1)), made + 500)])
    shard.close()
    now_ms[0] += 1500
    shard = open_shard(tmp_path)
    assert not shard.may_miss_deletes
    now_ms[0] += 1
    assert shard.may_miss_deletes
    shard.apply([written(watermark(2, 9), now_ms[0] - 5)])
    assert not shard.may_miss_deletes
    shard.apply([written(watermark(3, 9), made)])
    assert not shard.may_miss_deletes, "a record that Kafka says is older"
    shard.close()


def test_a_shard_that_is_being_built_from_old_records_misses_no_deletes(tmp_path: Path, now_ms: list[int]) -> None:
    """Else every restart and every rebalance meanwhile would begin anew."""
    shard = open_shard(tmp_path)
    shard.apply([written(document(0, "a", unit(1)), now_ms[0] - 50 * WEEK_MS)])
    shard.close()
    now_ms[0] += WEEK_MS
    shard = open_shard(tmp_path)
    assert not shard.may_miss_deletes
    now_ms[0] += 1
    assert shard.may_miss_deletes
    shard.close()


def test_times_of_records_that_are_ahead_make_no_place_young(tmp_path: Path, now_ms: list[int]) -> None:
    shard = open_shard(tmp_path)
    shard.apply([written(document(0, "a", unit(1)), now_ms[0] + 50 * WEEK_MS)])
    now_ms[0] += WEEK_MS + 1
    assert shard.may_miss_deletes
    shard.close()


def test_a_transaction_that_failed_leaves_the_place_as_old_as_it_was(tmp_path: Path, now_ms: list[int]) -> None:
    shard = open_shard(tmp_path)
    shard.apply([written(document(0, "a", unit(1)), now_ms[0])])
    now_ms[0] += WEEK_MS + 1
    with pytest.raises(FingerprintMismatch):
        shard.apply([written(document(1, "b", unit(1), fingerprint="other"), now_ms[0])])
    assert shard.may_miss_deletes
    shard.close()


@pytest.mark.parametrize("kind", ["a file of before times were kept", "a topic without times"])
def test_where_no_times_of_records_are_known_a_place_is_as_old_as_its_last_transaction(
    tmp_path: Path, now_ms: list[int], kind: str
) -> None:
    shard = open_shard(tmp_path)
    shard.apply([written(document(0, "a", unit(1)), -1)])
    now_ms[0] += WEEK_MS
    shard.apply([written(document(1, "b", unit(1)), 0)])
    shard.close()
    if kind == "a file of before times were kept":
        with sqlite3.connect(file_of(tmp_path)) as connection:
            connection.execute("DELETE FROM meta WHERE name IN ('read_ms', 'made_ms')")
        connection.close()
    shard = open_shard(tmp_path)
    now_ms[0] += WEEK_MS
    assert not shard.may_miss_deletes
    now_ms[0] += 1
    assert shard.may_miss_deletes
    shard.close()


def test_another_life_of_the_topics_sets_the_file_aside(tmp_path: Path) -> None:
    closed_shard(tmp_path)
    shard = open_shard(tmp_path, epoch="another")
    assert (shard.next_offset, len(aside(tmp_path))) == (None, 1)
    shard.close()
    shard = open_shard(tmp_path, epoch="another")
    assert len(aside(tmp_path)) == 1
    shard.close()


def test_a_wal_without_its_file_is_not_taken_over(tmp_path: Path) -> None:
    closed_shard(tmp_path)
    (tmp_path / "shard-0.sqlite-wal").write_bytes(b"old log")
    shard = open_shard(tmp_path, epoch="another")
    shard.apply([document(0, "b", unit(1), epoch="another")])
    assert found(shard, unit(1)) == ["b"]
    shard.close()


def _hold(path: str, connection: Connection) -> None:
    store = ShardStore(Path(path), "epoch")
    connection.send("held")
    connection.recv()
    store.close()


def test_a_file_that_another_process_holds_is_refused_and_free_once_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_WAIT_S", 0.1)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(str(file_of(tmp_path)), theirs))
    process.start()
    assert ours.poll(30)
    with pytest.raises(ShardCorrupt, match=r"another process uses .*shard-0\.lock.*HEADRACE_DATA_DIR"):
        open_shard(tmp_path)
    process.kill()
    process.join(10)
    shard = open_shard(tmp_path)
    shard.close()
    for item in (ours, theirs, process):
        item.close()


def test_vectors_of_another_model_stop_the_shard_and_change_nothing(tmp_path: Path) -> None:
    closed_shard(tmp_path)
    shard = open_shard(tmp_path)
    with pytest.raises(FingerprintMismatch, match=r"vectors of m .*now come those of other .*HEADRACE_COLLECTION"):
        shard.apply([document(2, "b", unit(1)), document(3, "c", unit(1), fingerprint="other")])
    assert (shard.next_offset, shard.document("b")) == (2, None)
    shard.close()


def test_vectors_of_another_length_stop_the_shard_before_they_are_stored(tmp_path: Path) -> None:
    """Stored, they would stop it at every start from then on."""

    closed_shard(tmp_path)
    shard = open_shard(tmp_path)
    odd = VectorRecord("b", "x", None, {}, bytes(16), "m", ((0, 1),), np.ones((1, 3), np.float16))
    with pytest.raises(FingerprintMismatch, match="3 dimensions"):
        shard.apply([record_event(2, b"b", encode_vector_record(odd), headers("document", 9))])
    shard.close()
    assert _offsets(tmp_path) == 2


def test_every_thread_reads_with_a_connection_of_its_own(tmp_path: Path) -> None:
    shard: Shard = open_shard(tmp_path)
    shard.apply([document(0, "a", unit(1))])
    with ThreadPoolExecutor(4) as threads:
        names = list(threads.map(lambda _: found(shard, unit(1)), range(40)))
    assert names == [["a"]] * 40
    shard.close()
