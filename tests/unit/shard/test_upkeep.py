"""What keeps a graph good: when it is rebuilt and saved, and when it is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.shard import upkeep as module
from app.shard.graph import Graph, Reached
from app.shard.shard import Shard
from tests.unit.shard.parts import delete, document, drain, open_shard, random_units

VECTORS = random_units(200, 1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred points are many, and it is never quiet."""
    monkeypatch.setattr("app.shard.index._QUIET_S", -1.0)
    for name, value in {"_LEAST_DEAD": 5, "_SNAPSHOT_POINTS": 50, "_QUIET_SNAPSHOT_POINTS": 10}.items():
        monkeypatch.setattr(module, name, value)
    quiet(monkeypatch, False)


def quiet(monkeypatch: pytest.MonkeyPatch, is_quiet: bool) -> None:
    monkeypatch.setattr(module, "_QUIET_S", -1.0 if is_quiet else 1e9)


def shard_of(folder: Path, count: int, dead: int = 0, **changed: Any) -> Shard:
    """All in the graph, the first `dead` of them deleted."""
    shard = open_shard(folder, write_buffer_rows=1, **changed)
    shard.apply([document(n, f"d{n}", VECTORS[n]) for n in range(count)])
    drain(shard)
    shard.apply([delete(count + n, f"d{n}") for n in range(dead)])
    drain(shard)
    return shard


def maintain(shard: Shard, *, now: bool = True) -> None:
    if now:
        shard._upkeep._next.clear()  # as if time had passed
    shard.maintain()


def reason(shard: Shard) -> str | None:
    return shard.status().rebuild_reason


def ask(shard: Shard, count: int) -> None:
    """Search and measure, as often as it takes for so many samples."""
    for at in range(0, count, 4):
        for query in random_units(4, at):
            shard.search(query, 5, None, None)
        shard._upkeep.recall.measure(shard._index)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dead", "is_quiet", "rebuilt"), [(25, False, False), (26, False, True), (26, True, True)])
def test_a_graph_is_rebuilt_where_more_than_the_set_share_of_its_points_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: int, is_quiet: bool, rebuilt: bool
) -> None:
    quiet(monkeypatch, is_quiet)
    shard = shard_of(tmp_path, 100, dead, rebuild_dead_ratio=0.25)
    maintain(shard)
    assert (reason(shard) is not None) == rebuilt
    status = shard.status()
    assert (status.graph_dead_ratio == 0) == rebuilt
    assert (status.rebuild_seconds is not None, status.rebuilding, status.rebuild_progress) == (rebuilt, False, 0.0)
    assert len(shard.search(VECTORS[99], 100, None, None)) == 100 - dead


@pytest.mark.parametrize(("dead", "is_quiet", "rebuilt"), [(5, True, False), (6, True, True), (6, False, False)])
def test_where_it_is_quiet_fewer_dead_points_are_worth_a_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: int, is_quiet: bool, rebuilt: bool
) -> None:
    quiet(monkeypatch, is_quiet)
    shard = shard_of(tmp_path, 100, dead)
    maintain(shard)
    assert (reason(shard) is not None) == rebuilt


def test_a_few_dead_points_are_left_alone_whatever_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST_DEAD", 1000)
    shard = shard_of(tmp_path, 20, 15)
    maintain(shard)
    assert reason(shard) is None


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While it holds True every graph finds only what is of odd number."""
    search, is_bad = Graph.search, [True]

    def half(graph: Graph, query: Any, k: int) -> Any:
        labels, scores, _ = search(graph, query, k)
        kept = labels % 2 == 1 if is_bad[0] else np.ones(len(labels), np.bool_)
        return Reached(labels[kept], scores[kept], int(kept.sum()))

    monkeypatch.setattr(Graph, "search", half)
    return is_bad


def test_a_graph_that_finds_too_little_is_rebuilt_once_and_again_only_when_much_of_it_has_changed(
    tmp_path: Path, bad: list[bool]
) -> None:
    shard = shard_of(tmp_path, 150, recall_target=0.9)
    ask(shard, 28)
    maintain(shard)
    assert reason(shard) is None  # too few samples
    ask(shard, 64)
    before = shard.status().recall_at_10
    assert before is not None
    assert before < 0.9
    maintain(shard)
    assert (reason(shard) or "").startswith("recall@10 is 0.")
    assert shard.status().recall_samples == 0  # that was another graph
    built = shard._index.generation.graph  # type: ignore[union-attr]
    ask(shard, 64)
    maintain(shard)
    assert shard._index.generation.graph is built  # type: ignore[union-attr]
    shard.apply([document(1000 + n, f"n{n}", VECTORS[150 + n]) for n in range(20)])
    drain(shard)
    maintain(shard)
    assert shard._index.generation.graph is not built  # type: ignore[union-attr]


def test_a_graph_that_finds_enough_is_left_alone(tmp_path: Path, bad: list[bool]) -> None:
    bad[0] = False
    shard = shard_of(tmp_path, 150)
    ask(shard, 64)
    maintain(shard)
    assert (shard.status().recall_at_10, reason(shard)) == (pytest.approx(1.0), None)


def test_a_rebuild_for_which_there_is_too_little_memory_is_refused_with_its_reason_and_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shard = shard_of(tmp_path, 100, 50)
    left = [512 * 2**20]
    monkeypatch.setattr(module, "available_bytes", lambda: left[0])
    for _ in range(3):
        maintain(shard, now=False)
    assert reason(shard) is None
    said = [message for message in caplog.messages if "is not rebuilt" in message]
    assert len(said) == 1
    assert "50% of its points are dead" in said[0]
    assert "MiB of memory" in said[0]
    left[0] += 2**30
    maintain(shard, now=False)
    assert reason(shard) is None  # not yet
    maintain(shard)
    assert reason(shard) is not None


def test_memory_that_the_system_does_not_tell_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda: None)
    shard = shard_of(tmp_path, 100, 50)
    maintain(shard)
    assert reason(shard) is not None


def test_a_shard_that_is_stopped_is_neither_rebuilt_nor_saved(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, 100, 50)
    shard.stop()
    maintain(shard)
    assert (reason(shard), shard.status().snapshot_ms) == (None, None)


@pytest.mark.parametrize(
    ("count", "is_quiet", "saved"), [(49, False, None), (50, False, 50), (9, True, None), (10, True, 10)]
)
def test_a_snapshot_is_written_where_so_many_points_would_have_to_be_added_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, is_quiet: bool, saved: int | None
) -> None:
    quiet(monkeypatch, is_quiet)
    shard = shard_of(tmp_path, count)
    maintain(shard)
    assert shard.status().snapshot_chunks == saved
    assert (tmp_path / "shard-0.graph").exists() == (saved is not None)


def test_a_snapshot_is_written_again_only_for_what_has_come_or_gone_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shard_of(tmp_path, 100)
    maintain(shard)
    written = (tmp_path / "shard-0.graph").stat().st_ino
    shard.apply([document(1000 + n, f"n{n}", -VECTORS[n]) for n in range(49)])
    drain(shard)
    maintain(shard)
    assert (tmp_path / "shard-0.graph").stat().st_ino == written
    shard.apply([delete(2000, "d99")])
    drain(shard)
    maintain(shard)
    assert shard.status().snapshot_chunks == 149


def test_a_shard_that_was_loaded_from_a_snapshot_is_not_saved_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch, True)
    shard = shard_of(tmp_path, 100)
    maintain(shard)
    shard.close()
    before = (tmp_path / "shard-0.graph").stat().st_mtime_ns
    shard = open_shard(tmp_path, write_buffer_rows=1)
    maintain(shard)
    assert (tmp_path / "shard-0.graph").stat().st_mtime_ns == before
    assert shard.status().snapshot_chunks == 100


def test_after_a_rebuild_the_new_graph_is_saved(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, 100)
    maintain(shard)
    shard.apply([delete(1000 + n, f"d{n}") for n in range(40)])
    drain(shard)
    maintain(shard)
    assert (reason(shard), shard.status().snapshot_chunks) == ("40% of its points are dead", 60)


def test_a_snapshot_that_fails_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shard = shard_of(tmp_path, 60)
    tries = []

    def fail(*_: Any) -> int:
        tries.append(1)
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_snapshot", fail)
        for _ in range(3):
            maintain(shard, now=False)
    assert len(tries) == 1
    assert "no snapshot of the graph could be written: no room" in caplog.text
    assert shard.status().snapshot_chunks is None
    maintain(shard, now=False)
    assert shard.status().snapshot_chunks is None  # not yet
    maintain(shard)
    assert shard.status().snapshot_chunks == 60
