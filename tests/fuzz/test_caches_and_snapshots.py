"""What lies in Redis and on the disk was written by us, unless it was not: any bytes are a value or as if unknown."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.embed.applied import AppliedState
from app.model.cut import Cut
from app.order import DocumentOrder
from app.registry import _decoded
from app.shard.snapshot import MAGIC, SnapshotFacts, SnapshotUnusable, read_snapshot, write_snapshot
from tests.fuzz.mutations import FUZZ, damaged, json_mutations
from tests.unit.embed.parts import Parts, event, vectors

FACTS = SnapshotFacts("f", "m", 8, 16, 100, 7, 3, 1)
STATE = {"dim": 8, "M": 16, "points": np.arange(3), "links": np.ones(5, np.float32)}


@FUZZ
@given(st.binary(max_size=60) | damaged(st.just(Cut(3, ((0, 4), (6, 9)), (((0, 2),), ())).encode())))
def test_any_bytes_are_a_cut_or_no_cut(value: bytes) -> None:
    try:
        cut = Cut.decode(value)
    except ValueError:
        return
    if cut.fits("0123456789"):
        assert all(0 <= start <= end <= 10 for start, end in cut.spans)
        assert sum(len(chunk.embed_text) for chunk in cut.chunks("0123456789", "title")) < 200_000


def test_a_number_without_end_is_no_cut_at_once() -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match="larger than any text"):
        Cut.decode(b"\xff" * 1_000_000 + b"\0")
    assert time.perf_counter() - started < 1


def test_a_cut_that_repeats_a_long_line_without_end_does_not_fit() -> None:
    text = "x" * 10_000
    cut = Cut(0, ((0, 10_000),), (((0, 10_000),) * 100_000,))
    assert not Cut.decode(cut.encode()).fits(text)
    assert Cut(0, ((0, 10_000),), (((0, 10),),)).fits(text)


def test_a_cut_of_another_text_does_not_fit() -> None:
    assert not Cut(0, ((0, 5),)).fits("four")
    assert not Cut(0, ()).fits("a text")
    assert Cut(0, ()).fits(" \n")


@pytest.mark.parametrize("what", ["nan", "zero", "long"])
def test_a_cached_vector_that_is_none_of_a_model_is_made_anew(what: str) -> None:
    """A document must not be lost, nor be found by a vector without meaning, because of what lies in a shared Redis."""
    parts = Parts()
    parts.process(event(0, "a", "some words"))
    (sound,) = (told.document.vectors.tobytes() for told in vectors(parts.producer.take()) if told.document)
    value = {"nan": b"\xff" * len(sound), "zero": bytes(len(sound)), "long": b"\x7b" * len(sound)}[what]
    memory = parts.caches.vectors._memory
    memory.update(dict.fromkeys(memory, value))
    parts.process(event(1, "b", "some words"))
    (told,) = vectors(parts.producer.take())
    assert told.document is not None
    assert told.document.vectors.tobytes() == sound


def test_a_cached_cut_of_another_text_is_made_anew() -> None:
    parts = Parts()
    parts.process(event(0, "a", "some words"))
    (before,) = vectors(parts.producer.take())
    memory = parts.caches.cuts._memory
    memory.update(dict.fromkeys(memory, Cut(0, ((0, 5000),)).encode()))
    parts.process(event(1, "b", "some words"))
    (after,) = vectors(parts.producer.take())
    assert before.document is not None
    assert after.document is not None
    assert after.document.spans == before.document.spans


@FUZZ
@given(
    st.binary(max_size=60) | damaged(st.just(AppliedState(DocumentOrder(3, 7), False, bytes(16), bytes(8)).encode()))
)
def test_any_bytes_are_an_applied_state_or_none(value: bytes) -> None:
    try:
        state = AppliedState.decode(value)
    except (struct.error, ValueError):
        return
    assert state.order.source_offset < 2**64


@FUZZ
@given(st.binary() | json_mutations(st.just({"url": "http://a", "alive_until_ms": 5, "told": {"name": "b"}})))
def test_any_entry_of_the_registry_is_a_worker_or_long_dead(value: bytes) -> None:
    entry = _decoded(value)
    assert isinstance(entry["alive_until_ms"], int)
    if entry["alive_until_ms"]:
        assert isinstance(entry["url"], str)
        assert isinstance(entry["told"], dict)


def snapshot(head: bytes, sections: bytes = b"") -> bytes:
    """With a right checksum of its head."""
    return MAGIC + struct.pack("<II", len(head), zlib.crc32(head)) + head + sections


def head_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[4:8], "little")
    return orjson.loads(content[12 : 12 + length]), content[12 + length :]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "a.graph"
    write_snapshot(path, FACTS, STATE)
    return path


@FUZZ
@given(st.data())
def test_any_file_is_a_snapshot_or_unusable(written: Path, data: st.DataObject) -> None:
    head, sections = head_of(written)
    mutated = json_mutations(st.just(head)).map(lambda content: snapshot(content, sections))
    damage = damaged(st.just(written.read_bytes()))
    path = written.with_name("b.graph")
    path.write_bytes(data.draw(mutated | damage | st.binary(max_size=40)))
    try:
        facts, _ = read_snapshot(path)
    except SnapshotUnusable:
        return
    assert isinstance(facts.file_id, str)
    assert isinstance(facts.next_offset, int)


@pytest.mark.parametrize(
    "section",
    [
        {"bytes": -8},
        {"bytes": 2**62},
        {"bytes": 23},
        {"dtype": "O"},
        {"dtype": "V0"},
        {"dtype": "V8"},
        {"dtype": "U2"},
        {"dtype": "i4,f4"},
        {"bytes": "24"},
        {"bytes": 1e300},
        {"crc32": None},
    ],
)
def test_a_section_that_cannot_be_is_refused_before_memory_is_taken(written: Path, section: dict[str, Any]) -> None:
    head, sections = head_of(written)
    head["sections"][0] |= section
    path = written.with_name("c.graph")
    path.write_bytes(snapshot(orjson.dumps(head), sections))
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotUnusable):
            read_snapshot(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head", [b"", b"[]", b"null", b"{", b"[" * 50_000, b'{"facts":{},"parameters":{},"sections":[]}']
)
def test_a_head_that_is_none_is_unusable(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.graph").write_bytes(snapshot(head))
    with pytest.raises(SnapshotUnusable):
        read_snapshot(tmp_path / "a.graph")


def test_facts_of_the_wrong_type_are_unusable(written: Path) -> None:
    head, sections = head_of(written)
    head["facts"]["next_offset"] = "7"
    path = written.with_name("d.graph")
    path.write_bytes(snapshot(orjson.dumps(head), sections))
    with pytest.raises(SnapshotUnusable, match="next_offset is '7'"):
        read_snapshot(path)
