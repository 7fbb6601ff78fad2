"""The value of the vectors topic: what goes in comes out, and damage never does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidVectorRecord
from schemas.vector_record import MAGIC, VectorRecord, decode_vector_record, encode_vector_record
from tests.unit.schemas.strategies import vector_records

RECORD = VectorRecord("a", "text", None, {}, bytes(16), "m", ((0, 4),), np.full((1, 4), 0.5, np.float16))


def same(one: VectorRecord, other: VectorRecord) -> bool:
    fields = [field.name for field in dataclasses.fields(VectorRecord) if field.name != "vectors"]
    return (
        all(getattr(one, name) == getattr(other, name) for name in fields)
        and one.vectors.dtype == other.vectors.dtype
        and one.vectors.shape == other.vectors.shape
        and one.vectors.tobytes() == other.vectors.tobytes()
    )


@given(vector_records())
def test_an_encoded_record_decodes_to_itself(record: VectorRecord) -> None:
    assert same(decode_vector_record(encode_vector_record(record)), record)


@given(vector_records(), st.data())
def test_flipped_bits_never_decode_to_a_record(record: VectorRecord, data: st.DataObject) -> None:
    value = bytearray(encode_vector_record(record))
    at, bits = data.draw(st.integers(0, len(value) - 1)), data.draw(st.integers(1, 255))
    value[at] ^= bits
    with pytest.raises(InvalidVectorRecord):
        decode_vector_record(bytes(value))


@given(vector_records(), st.data())
def test_a_record_cut_short_or_with_a_tail_never_decodes(record: VectorRecord, data: st.DataObject) -> None:
    value = encode_vector_record(record)
    damaged = value[: data.draw(st.integers(0, len(value) - 1))] or value + data.draw(st.binary(min_size=1))
    with pytest.raises(InvalidVectorRecord):
        decode_vector_record(damaged)
    with pytest.raises(InvalidVectorRecord):
        decode_vector_record(value + data.draw(st.binary(min_size=1, max_size=9)))


@given(st.binary() | st.binary().map(lambda tail: MAGIC + tail))
def test_garbage_never_decodes(value: bytes) -> None:
    with pytest.raises(InvalidVectorRecord):
        decode_vector_record(value)


def test_another_version_is_refused_by_its_first_bytes() -> None:
    with pytest.raises(InvalidVectorRecord, match="not a vector record of a known version: starts with b'HRV2'"):
        decode_vector_record(b"HRV2" + encode_vector_record(RECORD)[4:])


def test_vectors_that_do_not_fit_the_spans_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="1 vectors for 0 spans"):
        encode_vector_record(dataclasses.replace(RECORD, spans=()))


def test_vectors_are_a_view_of_the_value_and_cannot_be_written() -> None:
    vectors = decode_vector_record(encode_vector_record(RECORD)).vectors
    assert not vectors.flags.writeable
    assert not vectors.flags.owndata
