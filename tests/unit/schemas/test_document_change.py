"""The value of the changes topic: what is accepted, what is refused and how the refusal reads."""

from __future__ import annotations

from contextlib import suppress

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.document_change import MAX_EPOCH_MS, DocumentChange, decode_change, parse_change, utc
from schemas.errors import InvalidChange
from tests.unit.schemas.strategies import changes

GOOD = {"id": "a", "text": "x"}


def decoded(**fields: object) -> DocumentChange:
    return decode_change(b"a", orjson.dumps(GOOD | fields))


@given(changes())
def test_an_encoded_change_decodes_to_itself(change: DocumentChange) -> None:
    assert decode_change(change.key, change.encode()) == change
    assert parse_change(orjson.loads(change.encode())) == change


@given(st.none() | st.binary(), st.none() | st.binary())
@example(b"a", b"[" * 100_000)
@example(b"a", b'{"id":"a","text":"\\ud800"}')
@example(b"a", b'{"id":"a","text":"\xff"}')
@example(b"\xff", b"{}")
@example(b"a", b'{"id":"a","text":"x","event_time":"0001-01-01T00:00:00+23:59"}')
@example(b"a", b'{"id":"a","text":"x","version":1e999}')
def test_arbitrary_bytes_decode_or_are_invalid_and_nothing_else(key: bytes | None, value: bytes | None) -> None:
    try:
        change = decode_change(key, value)
    except InvalidChange:
        return
    assert change.key == key


@given(changes(), st.data())
def test_a_damaged_change_decodes_or_is_invalid_and_nothing_else(change: DocumentChange, data: st.DataObject) -> None:
    value = bytearray(change.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InvalidChange):
        assert decode_change(change.key, bytes(value)).id == change.id


def test_a_null_value_is_a_delete_of_its_key() -> None:
    change = decode_change("ключ".encode(), None)
    assert (change.op, change.id) == ("delete", "ключ")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": None}, "an upsert needs 'text'"),
        ({"id": "é" * 513}, "'id' is longer than 1024 bytes in UTF-8"),
        ({"id": ""}, "id: .*at least 1 character"),
        ({"id": "b"}, "the key 'a' is not the id 'b'"),
        ({"op": "upgrade"}, "op: .*'upsert' or 'delete'"),
        ({"schema_version": 2}, "schema_version: .*1"),
        ({"version": -1}, "version: .*greater than or equal to 0"),
        ({"version": 2**63}, "version: .*less than or equal to"),
        ({"version": "7"}, "version: .*valid integer"),
        ({"metadata": {"a": {"b": 1}}}, "metadata.a: "),
        ({"metadata": {"a": [1]}}, "metadata.a: "),
        ({"metadata": {"": 1}}, "metadata.*: .*at least 1 character"),
        ({"metadata": {f"m{n}": n for n in range(65)}}, "metadata: .*at most 64"),
        ({"event_time": "yesterday"}, "event_time must be RFC 3339 or milliseconds"),
        ({"event_time": "2026-01-31T12:00:00"}, "event_time needs a time zone"),
        ({"event_time": True}, "event_time: .*valid integer"),
        ({"event_time": MAX_EPOCH_MS + 1}, "event_time: .*less than or equal"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_a_refusal_names_the_field_and_what_is_accepted(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidChange, match=reason):
        decoded(**fields)


def test_an_event_without_a_key_is_refused_with_what_the_key_must_be() -> None:
    with pytest.raises(InvalidChange, match="the key must be the document id"):
        decode_change(None, orjson.dumps(GOOD))


def test_half_a_surrogate_pair_cannot_be_published() -> None:
    with pytest.raises(InvalidChange, match="not valid Unicode"):
        parse_change({"id": "a", "text": "\ud800"})


@pytest.mark.parametrize(
    ("given_time", "epoch_ms"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("2026-01-31T12:00:00.123+01:00", 1_769_857_200_123),
        (1_769_857_200_123, 1_769_857_200_123),
        (None, None),
    ],
)
def test_event_time_is_rfc_3339_or_milliseconds(given_time: object, epoch_ms: int | None) -> None:
    assert decoded(event_time=given_time).event_time == epoch_ms


@given(st.integers(0, MAX_EPOCH_MS))
@example(MAX_EPOCH_MS)
def test_every_accepted_event_time_can_be_told_and_read_back(epoch_ms: int) -> None:
    """A time that cannot be told would fail every search that finds the document."""
    assert decoded(event_time=utc(epoch_ms)).event_time == epoch_ms


@pytest.mark.parametrize("epoch_ms", [-1, -(2**63), MAX_EPOCH_MS + 1, 2**63 - 1])
def test_times_that_rfc_3339_cannot_say_become_the_nearest_that_it_can(epoch_ms: int) -> None:
    assert utc(epoch_ms) in ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z")
