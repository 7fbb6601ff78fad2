"""What an audit makes of a log is what a shard makes of it, from the whole log and from any two parts of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audit.compare import same_vectors, shard_drift
from app.audit.fold import VectorsFold
from app.event import Event
from app.shard.held_rows import HeldRows
from schemas.vector_record import decode_vector_record
from tests.unit.shard.parts import EPOCH, delete, document, headers, open_shard, random_units, record_event, watermark

IDS = ("a", "b", "ключ")


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Records of few documents: late ones, repeated ones, the same change with other content, and what counts for
    nothing. Offsets have gaps."""
    events: list[Event] = []
    offset = draw(st.integers(0, 2))
    for _ in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(["document", "document", "document", "delete", "watermark", "foreign", "damaged"]))
        document_id = draw(st.sampled_from(IDS))
        version = draw(st.none() | st.integers(0, 4))
        floor = draw(st.none() | st.integers(0, 4)) if version is None else None
        told = {"source_offset": draw(st.integers(0, 9)), "version": version, "version_floor": floor}
        told["through"] = draw(st.integers(-1, 9))
        vectors = random_units(draw(st.integers(0, 3)), draw(st.integers(0, 2)))
        if kind == "delete":
            event = delete(offset, document_id, **told)
        elif kind == "watermark":
            event = watermark(offset, draw(st.integers(0, 9)))
        elif kind == "damaged":
            event = record_event(offset, document_id.encode(), b"HRV1", headers("document", 3))
        else:
            epoch = "another" if kind == "foreign" else EPOCH
            metadata = {"n": draw(st.integers(0, 1))}
            event = document(offset, document_id, vectors, metadata=metadata, epoch=epoch, **told)
        events.append(event)
        offset += draw(st.integers(1, 3))
    return events


def rows_after(events: Sequence[Event], dtype: str) -> tuple[HeldRows, dict[str, bytes], int]:
    """What a shard holds after these records: rows, vectors by id, and how far it reaches."""
    with tempfile.TemporaryDirectory() as folder:
        shard = open_shard(Path(folder), vector_storage=dtype)
        try:
            shard.apply(events)
            vectors = {id: shard.whole_row(id).vectors or b"" for id in IDS}
            return shard.rows_after(None, 1000), vectors, shard.progress().through
        finally:
            shard.close()


@settings(max_examples=40, deadline=None)
@given(logs(), st.sampled_from(["float16", "float32"]))
def test_the_fold_of_a_log_is_what_a_shard_makes_of_it(events: list[Event], dtype: str) -> None:
    held, vectors, through = rows_after(events, dtype)
    fold = VectorsFold(EPOCH, ["float16", "float32"])
    fold.take(events)

    rows = {row.id: row for row in held.rows}
    assert {id: state.order for id, state in fold.states.items()} == {id: row.order for id, row in rows.items()}
    assert fold.through == through
    assert (held.epoch, held.dtype) == (EPOCH, dtype)
    records = {event.offset: event for event in events}
    for id, state in fold.states.items():
        assert shard_drift(state, rows[id], fold.dtypes.index(dtype)) is None
        if not state.deleted:
            assert same_vectors(decode_vector_record(records[state.offset].value or b""), dtype, vectors[id])


@settings(max_examples=60, deadline=None)
@given(logs(), st.data())
def test_the_state_at_an_offset_is_the_fold_of_what_is_before_it(events: list[Event], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(events)))
    fold = VectorsFold(EPOCH, ["float16"])
    fold.take(events[:first])
    fold.follow(IDS)
    fold.take(events[first:])

    for count in range(first, len(events) + 1):
        whole = VectorsFold(EPOCH, ["float16"])
        whole.take(events[:count])
        next_offset = events[count - 1].offset + 1 if count else 0
        assert {id: fold.at(id, next_offset) for id in IDS} == {id: whole.states.get(id) for id in IDS}


def test_vectors_that_differ_by_rounding_are_the_same_and_others_are_not() -> None:
    record = decode_vector_record(document(0, "a", random_units(2, 1)).value or b"")
    near = record.vectors.astype(np.float32) * np.float32(1.0004)
    assert same_vectors(record, "float16", near.astype(np.float16).tobytes())
    assert not same_vectors(record, "float16", near[::-1].astype(np.float16).tobytes())
    assert not same_vectors(record, "float16", near[:1].astype(np.float16).tobytes())
