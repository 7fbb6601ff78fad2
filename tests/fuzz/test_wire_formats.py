"""Every decoder of what travels on topics: any bytes become a value, or an error of our own."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.embed.coalesce import coalesce
from app.event import Event
from schemas.dead_letter import DeadLetter, decode_dead_letter
from schemas.document_change import MAX_REASON_CHARS, DocumentChange, decode_change
from schemas.errors import InvalidChange, InvalidDeadLetter, InvalidVectorRecord
from schemas.headers import RecordHeaders, decode_headers
from schemas.vector_record import MAGIC, MAX_DIM, decode_vector_record, encode_vector_record
from tests.fuzz.mutations import FUZZ, damaged, json_mutations
from tests.unit.embed.parts import NOW_MS, raw_event
from tests.unit.schemas.strategies import changes, record_headers, vector_records

CHANGES = changes().map(lambda change: orjson.loads(change.encode()))
FIELDS: dict[str, Any] = {
    "id": "a",
    "text": "text",
    "title": None,
    "metadata": {"lang": "en", "tags": ["a"]},
    "content_hash": "00" * 16,
    "fingerprint": "m",
    "spans": [[0, 4]],
}


def record(fields: bytes, n: int = 1, dim: int = 1, code: int = 1, blob: bytes | None = None) -> bytes:
    """A value with a right checksum, whatever is in it."""
    vectors = bytes(n * dim * 2 * code) if blob is None and n * dim < 10_000 else blob or b""
    body = struct.pack("<B3xIII", code, n, dim, len(fields)) + fields + vectors
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def check_change(key: bytes | None, value: bytes | None) -> None:
    try:
        change = decode_change(key, value)
    except InvalidChange as error:
        reason = error.reason
    else:
        assert decode_change(change.key, change.encode()) == change
        assert change.key == key
        return
    assert 0 < len(reason.encode()) <= 4 * MAX_REASON_CHARS


@FUZZ
@given(st.none() | st.binary(max_size=40), st.none() | st.binary() | json_mutations(CHANGES))
def test_any_event_is_a_change_or_invalid(key: bytes | None, value: bytes | None) -> None:
    check_change(key, value)
    check_change(b"a", value)


@FUZZ
@given(json_mutations(CHANGES), changes())
def test_a_mutated_change_under_its_own_key_is_a_change_or_invalid(value: bytes, change: DocumentChange) -> None:
    try:
        key = str(orjson.loads(value)["id"]).encode()
    except (ValueError, KeyError, TypeError):
        key = change.key
    check_change(key, value)


@FUZZ
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["headrace-produced", "traceparent", "x"]),
            st.none() | st.binary(max_size=30) | st.sampled_from([b"9" * 19, b"9" * 5000, b"-1", "١".encode()]),
        )
    ),
    st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_a_producer_says_of_times_and_traces_a_shard_can_read_the_record(
    headers: list[tuple[str, bytes | None]], timestamp_ms: int
) -> None:
    event = raw_event(3, b"a", b'{"id":"a","text":"x"}', headers=headers)._replace(timestamp_ms=timestamp_ms)
    (work,), dead = coalesce([event], 1000)
    told = RecordHeaders("document", 0, 3, 3, NOW_MS, "e", NOW_MS, stages=work.stages, traceparent=work.traceparent)
    assert dead == []
    assert decode_headers(told.encode()) == told


@FUZZ
@given(json_mutations(st.just(FIELDS)), st.integers(0, 2), st.integers(0, 3), st.integers(0, 3))
def test_any_fields_with_a_right_checksum_are_a_record_or_invalid(fields: bytes, n: int, dim: int, code: int) -> None:
    try:
        decoded = decode_vector_record(record(fields, n, dim, code))
    except InvalidVectorRecord:
        return
    assert encode_vector_record(decoded)
    assert all(type(value) is str for value in (decoded.id, decoded.text, decoded.fingerprint))
    assert len(decoded.content_hash) == 16
    assert all(0 <= start <= end <= len(decoded.text) for start, end in decoded.spans)


@FUZZ
@given(st.binary() | damaged(vector_records().map(encode_vector_record)))
def test_any_bytes_are_a_record_or_invalid(value: bytes) -> None:
    with contextlib.suppress(InvalidVectorRecord):
        decode_vector_record(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (record(orjson.dumps(FIELDS | {"spans": []}), 0, 2**32 - 1), f"1 to {MAX_DIM} are possible"),
        (record(orjson.dumps(FIELDS), 2**32 - 1, 0), f"1 to {MAX_DIM} are possible"),
        (record(orjson.dumps(FIELDS), 2**32 - 1, 16_384), "length does not match"),
        (record(orjson.dumps(FIELDS | {"id": 5})), "int where text should be"),
        (record(orjson.dumps(FIELDS | {"id": "x" * 1025})), "the id has not"),
        (record(orjson.dumps(FIELDS | {"text": ["x"]})), "list where text should be"),
        (record(orjson.dumps(FIELDS | {"spans": [[-1, 2]]})), "outside of the text"),
        (record(orjson.dumps(FIELDS | {"spans": [[0, 5]]})), "outside of the text"),
        (record(orjson.dumps(FIELDS | {"spans": [[True, 2]]})), "outside of the text"),
        (record(orjson.dumps(FIELDS | {"metadata": {"a": {"b": 1}}})), "metadata: "),
        (record(orjson.dumps(FIELDS | {"metadata": dict.fromkeys(map(str, range(65)), 1)})), "more than 64 fields"),
        (record(orjson.dumps(FIELDS | {"content_hash": "00"})), "1 bytes instead of 16"),
        (record(orjson.dumps(FIELDS), blob=np.array([np.nan], np.float16).tobytes()), "not a finite number"),
        (record(b"[" * 100_000), "do not parse"),
    ],
)
def test_what_a_checksum_does_not_tell_is_named(value: bytes, reason: str) -> None:
    with pytest.raises(InvalidVectorRecord, match=reason):
        decode_vector_record(value)


@FUZZ
@given(record_headers(), st.data())
def test_any_headers_are_valid_or_invalid(headers: RecordHeaders, data: st.DataObject) -> None:
    found = headers.encode()
    at = data.draw(st.integers(0, len(found) - 1))
    numbers = st.sampled_from(
        [b"9" * 5000, b"-1", b"-2", b"", b"1_0", b" 7", b"9223372036854775808", b"1:2:3", b"\xff"]
    )
    found[at] = (found[at][0], data.draw(numbers | damaged(st.just(found[at][1])) | st.binary(max_size=9)))
    try:
        decoded = decode_headers(found)
    except InvalidVectorRecord:
        return
    assert decoded.source_partition >= 0
    assert min(decoded.source_offset, decoded.through) >= -1
    assert (decoded.version or 0) >= 0


@pytest.mark.parametrize(
    ("name", "value"), [("headrace-source", b"-1:3"), ("headrace-through", b"-2"), ("headrace-version", b"-1")]
)
def test_a_negative_place_or_version_is_invalid(name: str, value: bytes) -> None:
    told = dict(RecordHeaders("document", 0, 7, 7, 1, "e", 2).encode()) | {name: value}
    with pytest.raises(InvalidVectorRecord, match="is less than"):
        decode_headers(told.items())


@FUZZ
@given(st.data())
def test_any_dead_letter_reads_back_or_is_invalid(data: st.DataObject) -> None:
    headers = DeadLetter("t", 0, 1, "decode", "InvalidChange", "bad", 5).headers([])
    at = data.draw(st.integers(0, len(headers) - 1))
    headers[at] = (headers[at][0], data.draw(st.none() | st.binary(max_size=9) | st.just(b"9" * 5000)))
    with contextlib.suppress(InvalidDeadLetter):
        decode_dead_letter(headers)


@pytest.mark.parametrize(
    "value",
    [
        b'{"id":"a","text":"x","metadata":{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}}",
        b'{"id":"a","text":"x","metadata":{"v":' + b"9" * 1_000_000 + b"}}",
        b'{"id":"a","text":"x","' + b"k" * 1_000_000 + b'":1}',
        b'{"id":"a","text":"x","metadata":{"' + b"k" * 1_000_000 + b'":{}}}',
        b'{"id":"a","text":"x","event_time":"' + b"9" * 1_000_000 + b'"}',
    ],
)
def test_a_bomb_is_invalid_in_no_time_and_the_reason_is_short(value: bytes) -> None:
    """The reason becomes a header of the dead letter, which must fit beside the event."""
    started = time.perf_counter()
    _, (dead,) = coalesce([Event(0, 1, b"a", value, (), NOW_MS, NOW_MS)], 1000)
    assert len(str(dead.error)) <= MAX_REASON_CHARS
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(("said", "timestamp_ms"), [(b"9" * 5000, 5), (b"9" * 19, 5), (b"", 2**62), (b"", -1)])
def test_a_time_of_the_producer_that_no_header_can_hold_is_brought_into_64_bits(said: bytes, timestamp_ms: int) -> None:
    """Timestamps in nanoseconds are a common mistake: the record would be refused by every shard."""
    event = raw_event(3, b"a", b'{"id":"a","text":"x"}', headers=[("headrace-produced", said)])
    ((work,), _) = coalesce([event._replace(timestamp_ms=timestamp_ms)], 1000)
    assert 0 <= work.stages["produced"] < 2**63
