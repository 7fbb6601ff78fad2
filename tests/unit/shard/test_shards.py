"""The shards of a worker: opened, given back, replaced; the absorber goes on beside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.shard.shard import Shard
from app.shard.shards import Shards
from app.watchdog import Watchdog
from schemas.errors import PartitionsChanged, Stalled
from tests.services_local import eventually
from tests.unit.shard.parts import document, found, random_units, shard_settings, unit
from tests.unit.shard.test_snapshot import save


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    opened = Shards(shard_settings(tmp_path, write_buffer_rows=4, replica="r7"), "epoch")
    yield opened
    opened.close()


def test_each_partition_has_a_file_of_its_own_per_collection_and_replica(shards: Shards, tmp_path: Path) -> None:
    shards.acquire({0, 3})
    shards.acquire({3})
    assert set(shards.open) == {0, 3}
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.sqlite"))
    assert files == [Path(f"documents/replica-r7/shard-{partition}.sqlite") for partition in (0, 3)]


def test_a_shard_that_comes_back_goes_on_where_it_was(shards: Shards) -> None:
    shards.acquire({0})
    shards.open[0].apply([document(0, "a", unit(1))])
    shards.release({0, 5})
    assert dict(shards.open) == {}
    shards.acquire({0})
    assert (shards.open[0].next_offset, found(shards.open[0], unit(1))) == (1, ["a"])


def test_a_shard_that_is_reset_is_empty_and_the_others_stay(shards: Shards) -> None:
    shards.acquire({0, 1})
    for partition in (0, 1):
        shards.open[partition].apply([document(0, "a", unit(1))])
    other = shards.open[1]
    shards.reset(0)
    assert (shards.open[0].next_offset, shards.open[1]) == (None, other)


def test_the_map_that_a_reader_holds_does_not_change(shards: Shards) -> None:
    shards.acquire({0})
    held = shards.open
    shards.acquire({1})
    assert set(held) == {0}
    with pytest.raises(TypeError):
        shards.open[2] = shards.open[0]  # type: ignore[index]


def test_the_absorber_moves_the_buffers_of_all_shards_into_their_graphs(shards: Shards) -> None:
    shards.acquire({0, 1})
    for shard in shards.open.values():
        shard.apply([document(n, f"d{n}", vector) for n, vector in enumerate(random_units(30, 1))])
    eventually(lambda: all(shard.status().buffered < 4 for shard in shards.open.values()))
    assert [shard.status().chunks for shard in shards.open.values()] == [30, 30]


def test_words_can_be_found_in_all_shards_a_moment_later(shards: Shards) -> None:
    shards.acquire({0, 1})
    for partition, shard in shards.open.items():
        shard.apply([document(0, f"only{partition}", unit(1))])
    for partition, shard in shards.open.items():
        eventually(lambda shard=shard: shard.search(None, 5, None, None, "title"))  # type: ignore[misc]
        (hit,) = shard.search(None, 5, None, None, "title")
        assert hit.document.id == f"only{partition}"


def test_a_shard_is_given_back_while_another_one_is_rebuilt_for_minutes(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.shard.shards._SMALL_BYTES", -1)
    shards.acquire({0, 1})
    inside, end = threading.Event(), threading.Event()

    def rebuild() -> None:
        inside.set()
        assert end.wait(20)

    monkeypatch.setattr(shards.open[1], "maintain", rebuild)
    try:
        assert inside.wait(5)
        giving_back = threading.Thread(target=shards.release, args=({0},))
        giving_back.start()
        giving_back.join(3)
        assert not giving_back.is_alive()
    finally:
        end.set()
    assert set(shards.open) == {1}


def test_a_reset_shard_does_not_use_the_snapshot_of_the_one_before(shards: Shards, tmp_path: Path) -> None:
    shards.acquire({0})
    vectors = random_units(30, 1)
    shards.open[0].apply([document(n, f"d{n}", vector) for n, vector in enumerate(vectors)])
    eventually(lambda: shards.open[0].status().buffered < 4)
    assert save(shards.open[0])
    shards.reset(0)
    shards.open[0].apply([document(n, f"e{n}", vector) for n, vector in enumerate(vectors)])
    shards.release({0})
    shards.acquire({0})
    assert {name[0] for name in found(shards.open[0], unit(1), 30)} == {"e"}


def test_what_hangs_in_the_background_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, go_on = [0.0], threading.Event()
    watchdog = Watchdog(100, lambda: now[0])

    def hangs(_: Shard) -> bool:
        return go_on.wait(10)

    for work in ("absorb", "refresh_keywords", "maintain"):
        monkeypatch.setattr(Shard, work, hangs)
    shards = Shards(shard_settings(tmp_path), "epoch", watchdog)
    shards.acquire({0})
    eventually(lambda: len(watchdog._watched) == 3)
    now[0] = 25
    stages = {watched.stage for watched in watchdog._watched}
    assert stages == {
        "absorbing into the graph of shard 0",
        "refreshing the keywords of shard 0",
        "maintaining shard 0",
    }
    assert "has taken 25 s so far" in (watchdog.trouble or "")
    go_on.set()
    shards.close()
    assert watchdog.trouble is None


class Panic(BaseException):
    """As pyo3_runtime.PanicException: no Exception."""


def test_what_fails_for_a_shard_again_and_again_ends_the_worker(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.shard.shards._TROUBLE_S", 0.0)

    def panic(_: Shard) -> bool:
        raise Panic("tantivy panicked")

    monkeypatch.setattr(Shard, "refresh_keywords", panic)
    shards.acquire({0})
    eventually(lambda: "tantivy panicked" in (shards.trouble or ""))
    eventually(lambda: shards.failed is not None)
    assert isinstance(shards.failed, Stalled)


def test_a_shard_of_a_collection_that_was_given_more_partitions_is_refused_and_kept(tmp_path: Path) -> None:
    for count in (4, 4):
        shards = Shards(shard_settings(tmp_path), "epoch", partitions=count)
        shards.acquire({0})
        shards.open[0].apply([document(0, "a", unit(1))])
        shards.close()
    grown = Shards(shard_settings(tmp_path), "epoch", partitions=8)
    with pytest.raises(PartitionsChanged, match="have 8 partitions, and had 4"):
        grown.acquire({0})
    grown.close()
    again = Shards(shard_settings(tmp_path), "epoch", partitions=4)
    again.acquire({0})
    assert again.open[0].document("a") is not None
    again.close()
