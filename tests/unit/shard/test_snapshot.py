"""A graph on disk: read back as it was, or set aside whole; answers are right either way."""

from __future__ import annotations

import shutil
import struct
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.shard import snapshot as module
from app.shard.shard import Shard
from tests.unit.shard.parts import delete, document, drain, found, open_shard, random_units

GRAPH = "shard-0.graph"
VECTORS = random_units(40, 1)
DEAD = range(0, 40, 5)
Usage = namedtuple("Usage", "total used free")


def save(shard: Shard) -> bool:
    """Write a snapshot now; whether there was a graph to write."""
    index = shard._index
    if index is not None:
        shard._upkeep._run_snapshot(index, shard._snapshot_facts)
    return index is not None


def in_graph(shard: Shard) -> int:
    """How many points the graph holds."""
    assert shard._index is not None
    return shard._index.generation.graph.count


def opened(folder: Path, **changed: Any) -> Shard:
    return open_shard(folder, **({"write_buffer_rows": 1} | changed))


def answers(shard: Shard) -> list[list[tuple[str, float]]]:
    """Everything, as it is found from several sides."""
    return [
        [(hit.document.id, round(hit.score, 3)) for hit in shard.search(query, 50, None, None)]
        for query in random_units(6, 9)
    ]


def fill(folder: Path, **changed: Any) -> list[list[tuple[str, float]]]:
    """A shard with a snapshot, in which some points are dead; returns what it answers."""
    shard = opened(folder, **changed)
    shard.apply([document(n, f"d{n}", vector) for n, vector in enumerate(VECTORS)])
    drain(shard)
    shard.apply([delete(40 + n, f"d{dead}") for n, dead in enumerate(DEAD)])
    drain(shard)
    assert save(shard)
    found = answers(shard)
    shard.close()
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[tuple[str, float]]]]:
    folder = tmp_path_factory.mktemp("filled")
    return folder, fill(folder)


@pytest.fixture
def folder(filled: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled[0], tmp_path / "copy"))


@pytest.fixture
def right(filled: tuple[Path, Any]) -> Any:
    return filled[1]


def assert_set_aside(folder: Path, right: Any, caplog: pytest.LogCaptureFixture, words: str, **changed: Any) -> None:
    shard = opened(folder, **changed)
    assert answers(shard) == right
    assert not (folder / GRAPH).exists()
    assert (folder / f"{GRAPH}.unusable").exists()
    assert in_graph(shard) == 0
    assert words in caplog.text
    assert "the graph is built anew from the rows" in caplog.text
    drain(shard)
    assert answers(shard) == right
    shard.close()


def sections(content: bytes) -> list[int]:
    """Where each part of a snapshot ends: magic and length, head, sections."""
    (length,) = struct.unpack_from("<I", content, 4)
    ends = [12, 12 + length]
    for section in orjson.loads(content[12 : 12 + length])["sections"]:
        ends.append(ends[-1] + section["bytes"])
    return ends


def test_a_shard_that_is_opened_again_has_its_graph_from_the_snapshot_and_answers_as_before(
    folder: Path, right: Any
) -> None:
    shard = opened(folder)
    assert answers(shard) == right
    status = shard.status()
    assert (status.snapshot_chunks, status.buffered) == (40, 0)
    assert status.graph_dead_ratio == pytest.approx(len(DEAD) / 40)
    assert in_graph(shard) == 40
    shard.close()


def test_rows_that_came_after_the_snapshot_are_found_beside_it_and_taken_into_the_graph(
    folder: Path, right: Any
) -> None:
    shard = opened(folder)
    shard.apply([document(100, "new", VECTORS[0])])
    shard.close()
    shard = opened(folder)
    assert (shard.status().buffered, in_graph(shard)) == (1, 40)
    assert found(shard, VECTORS[0], 1) == ["new"]
    drain(shard)
    assert (shard.status().buffered, in_graph(shard)) == (0, 41)
    assert found(shard, VECTORS[0], 1) == ["new"]
    shard.close()


def test_points_whose_rows_are_gone_since_the_snapshot_are_not_found(folder: Path) -> None:
    shard = opened(folder)
    shard.apply([delete(100, "d1"), document(101, "d2", VECTORS[3])])
    expected = answers(shard)
    shard.close()
    shard = opened(folder)
    assert answers(shard) == expected
    assert shard.status().graph_dead_ratio == pytest.approx((len(DEAD) + 2) / 40)
    assert "d1" not in found(shard, VECTORS[1], 50)
    shard.close()


def test_what_was_loaded_can_be_changed_saved_and_loaded_again(folder: Path) -> None:
    for turn in range(3):
        shard = opened(folder)
        shard.apply([document(100 + turn, f"d{turn + 1}", VECTORS[30 + turn]), delete(200 + turn, f"d{turn + 11}")])
        drain(shard)
        assert save(shard)
        expected = answers(shard)
        shard.close()
        shard = opened(folder)
        assert answers(shard) == expected
        assert shard.status().buffered == 0
        shard.close()


def test_a_snapshot_that_is_cut_off_anywhere_is_set_aside(
    folder: Path, right: Any, caplog: pytest.LogCaptureFixture
) -> None:
    content = (folder / GRAPH).read_bytes()
    borders = sections(content)
    assert borders[-1] == len(content)
    inside = np.random.default_rng(3).integers(1, len(content), 20).tolist()
    for length in {*(end + step for end in borders for step in (-1, 0)), *inside, 0, 4} - {len(content)}:
        (folder / GRAPH).write_bytes(content[:length])
        assert_set_aside(folder, right, caplog, "")


def test_a_snapshot_with_something_behind_it_is_set_aside(
    folder: Path, right: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with (folder / GRAPH).open("ab") as file:
        file.write(b"x")
    assert_set_aside(folder, right, caplog, "it is longer than its head says")


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(place=0.0, bit=0)
@example(place=0.01, bit=5)
@example(place=0.999, bit=7)
def test_one_flipped_bit_anywhere_is_noticed(filled: tuple[Path, Any], place: float, bit: int) -> None:
    content = bytearray((filled[0] / GRAPH).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = filled[0] / "damaged"
    damaged.write_bytes(content)
    with pytest.raises(module.SnapshotUnusable):
        module.read_snapshot(damaged)


@pytest.mark.parametrize(
    "content", [b"", b"HRG0", b"HRG2" + bytes(100), b"HRG1" + b"\xff" * 8, b"HRG1\2" + bytes(7) + b"{}"]
)
def test_a_file_that_is_no_snapshot_of_this_version_is_set_aside(
    folder: Path, right: Any, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (folder / GRAPH).write_bytes(content)
    assert_set_aside(folder, right, caplog, "its head" if content.startswith(b"HRG1") else "of a known version")


def test_a_folder_in_its_place_is_set_aside(folder: Path, right: Any, caplog: pytest.LogCaptureFixture) -> None:
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()
    assert_set_aside(folder, right, caplog, "")


def test_the_snapshot_of_another_file_is_set_aside(
    folder: Path, tmp_path: Path, right: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    shutil.copy(tmp_path / GRAPH, folder)
    assert_set_aside(folder, right, caplog, "it belongs to another shard file")


@pytest.mark.parametrize(("setting", "value"), [("hnsw_m", 16), ("hnsw_ef_construction", 100)])
def test_a_graph_of_other_parameters_is_set_aside_and_built_with_those_that_are_set(
    folder: Path, right: Any, caplog: pytest.LogCaptureFixture, setting: str, value: int
) -> None:
    name = setting.removeprefix("hnsw_")
    assert_set_aside(folder, right, caplog, f"it was built with {name}", **{setting: value})


def test_another_ef_search_needs_no_other_graph(folder: Path, right: Any) -> None:
    shard = opened(folder, hnsw_ef_search=77)
    assert (in_graph(shard), shard.status().ef_search) == (40, 77)
    shard.close()


@pytest.mark.parametrize(("name", "value"), [("fingerprint", "other"), ("dim", 9), ("next_offset", 49)])
def test_a_snapshot_whose_facts_do_not_fit_the_file_is_set_aside(
    folder: Path, right: Any, caplog: pytest.LogCaptureFixture, name: str, value: Any
) -> None:
    facts, state = module.read_snapshot(folder / GRAPH)
    module.write_snapshot(folder / GRAPH, replace(facts, **{name: value}), state)
    assert_set_aside(folder, right, caplog, "it was built")


def test_a_snapshot_of_rows_that_its_file_has_lost_is_set_aside_whatever_its_head_says(
    folder: Path, tmp_path: Path, right: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A power cut took the last transactions: their labels will be given to other chunks."""
    ahead = Path(shutil.copytree(folder, tmp_path / "ahead"))
    shard = opened(ahead)
    shard.apply([document(100, "late", VECTORS[0])])
    drain(shard)
    assert save(shard)
    shard.close()
    before, _ = module.read_snapshot(folder / GRAPH)
    facts, state = module.read_snapshot(ahead / GRAPH)
    module.write_snapshot(folder / GRAPH, replace(facts, next_offset=before.next_offset), state)
    assert_set_aside(folder, right, caplog, "it knows chunks up to 41, the file has given out 40")


def test_a_snapshot_is_never_older_by_its_head_than_by_its_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction is committed and absorbed while a snapshot is written; then a power cut takes it."""
    shard = opened(folder)
    shard._store.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cut = tmp_path / "cut"
    cut.mkdir()
    facts = shard._snapshot_facts

    def facts_and_more() -> module.SnapshotFacts:
        told = facts()
        shutil.copy(folder / "shard-0.sqlite", cut)  # what the disk has after the power cut
        shard.apply([document(100 + n, f"late{n}", -VECTORS[n]) for n in range(5)])
        drain(shard)
        return told

    monkeypatch.setattr(shard, "_snapshot_facts", facts_and_more)
    assert save(shard)
    shard.close()
    shutil.copy(folder / GRAPH, cut)
    shard = opened(cut)
    assert in_graph(shard) == 40
    # they come again in another order, and compaction has taken one: labels are given anew
    shard.apply([document(101 + n, f"late{1 + n}", -VECTORS[1 + n]) for n in range(4)])
    drain(shard)
    shard.apply([delete(110, "late1"), document(111, "late2", -VECTORS[39], text="z")])
    drain(shard)
    living = {f"d{n}" for n in range(40) if n not in DEAD} | {"late2", "late3", "late4"}
    for query in VECTORS:
        assert set(found(shard, -query, 50)) == living
    shard.close()


def test_a_snapshot_whose_vectors_are_not_those_of_the_rows_is_set_aside(
    folder: Path, right: Any, caplog: pytest.LogCaptureFixture
) -> None:
    facts, state = module.read_snapshot(folder / GRAPH)
    size, at = state["size_data_per_element"], state["offset_data"]
    state["data_level0"].view(np.uint8)[7 * size + at + 3] ^= (
        1  # a sign, an exponent: of the eighth point's first number
    )
    module.write_snapshot(folder / GRAPH, facts, state)
    assert_set_aside(folder, right, caplog, "its vectors are not those of the file")


def test_no_snapshot_is_begun_where_less_than_twice_its_size_is_free(
    folder: Path, right: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = (folder / GRAPH).read_bytes()
    shard = opened(folder)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(0, 0, 2 * len(before) - 1000))
    save(shard)
    assert "the disk has less than twice that free" in caplog.text
    assert (folder / GRAPH).read_bytes() == before
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(0, 0, 2 * len(before) + 1000))
    save(shard)
    shard.close()
    shard = opened(folder)
    assert (in_graph(shard), answers(shard)) == (40, right)
    shard.close()


@pytest.mark.parametrize("step", ["_write", "fsync", "replace"])
def test_a_write_that_fails_midway_leaves_the_old_snapshot_and_nothing_else(
    folder: Path, right: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    before = (folder / GRAPH).read_bytes()
    shard = opened(folder)
    told = (shard.status().snapshot_chunks, shard.status().snapshot_ms)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    target = {"_write": (module, "_write"), "fsync": (module.os, "fsync"), "replace": (Path, "replace")}[step]
    with monkeypatch.context() as patched:
        patched.setattr(*target, fail)
        save(shard)
    assert "no snapshot of the graph could be written" in caplog.text
    assert (folder / GRAPH).read_bytes() == before
    assert sorted(path.name for path in folder.glob("*.graph*")) == [GRAPH]
    assert (shard.status().snapshot_chunks, shard.status().snapshot_ms) == told
    assert answers(shard) == right
    shard.close()


def test_half_a_snapshot_that_a_kill_left_behind_is_not_read_and_is_replaced(folder: Path, right: Any) -> None:
    half = folder / f"{GRAPH}.new"
    half.write_bytes((folder / GRAPH).read_bytes()[:100])
    shard = opened(folder)
    assert (in_graph(shard), answers(shard)) == (40, right)
    save(shard)
    assert not half.exists()
    shard.close()


def test_an_empty_shard_with_a_snapshot_of_another_life_starts_without_it(folder: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(folder / GRAPH, fresh)
    shard = opened(fresh)
    shard.apply([document(0, "a", VECTORS[0])])
    shard.close()
    shard = opened(fresh)
    assert found(shard, VECTORS[0]) == ["a"]
    shard.close()
