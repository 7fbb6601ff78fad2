"""Headers of the vectors topic, and those of dead letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import DeadLetter, decode_dead_letter
from schemas.errors import InvalidVectorRecord
from schemas.headers import WATERMARK_KEY, RecordHeaders, decode_headers
from tests.unit.schemas.strategies import INT64, TEXT, record_headers

PLAIN = RecordHeaders("document", 0, 7, 7, 1, "e", 2)
NAMES = [name for name, _ in PLAIN.encode()]


@given(record_headers())
def test_encoded_headers_decode_to_themselves(headers: RecordHeaders) -> None:
    assert decode_headers(headers.encode()) == headers


@given(record_headers(), st.lists(st.tuples(TEXT, st.none() | st.binary())))
def test_headers_of_others_do_not_disturb(headers: RecordHeaders, others: list[tuple[str, bytes | None]]) -> None:
    assert decode_headers([*others, *headers.encode()]) == headers


@given(st.dictionaries(st.sampled_from([*NAMES, "headrace-version", "headrace-stages"]), st.binary() | st.just(b"9")))
def test_damaged_headers_are_invalid_or_fit_in_64_bits(damage: dict[str, bytes]) -> None:
    """SQLite takes no more than 64 bits: a number beyond would stop the index worker."""
    try:
        headers = decode_headers((dict(PLAIN.encode()) | damage).items())
    except InvalidVectorRecord:
        return
    numbers = (headers.source_offset, headers.through, headers.as_of_ms, headers.event_time_ms, headers.version or 0)
    assert all(-(2**63) <= number < 2**63 for number in numbers)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_header_is_named(name: str) -> None:
    rest = [item for item in PLAIN.encode() if item[0] != name]
    with pytest.raises(InvalidVectorRecord, match=f"the header {name} is missing"):
        decode_headers(rest)


@pytest.mark.parametrize("name", ["headrace-through", "headrace-as-of", "headrace-event-time", "headrace-version"])
def test_a_number_beyond_64_bits_is_invalid(name: str) -> None:
    with pytest.raises(InvalidVectorRecord, match="does not fit in 64 bits"):
        decode_headers((dict(PLAIN.encode()) | {name: b"%d" % 2**63}).items())


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(InvalidVectorRecord, match="unknown headrace-kind 'cat'"):
        decode_headers([("headrace-kind", b"cat")])


def test_no_document_can_have_the_key_of_the_watermarks() -> None:
    with pytest.raises(UnicodeDecodeError):
        WATERMARK_KEY.decode()


@given(
    st.builds(
        DeadLetter,
        topic=TEXT,
        partition=st.integers(0, 9),
        offset=st.integers(0, 2**63 - 1),
        stage=TEXT,
        error_class=TEXT,
        message=TEXT,
        timestamp_ms=INT64,
    ),
    st.lists(st.tuples(TEXT, st.none() | st.binary())),
)
def test_a_dead_letter_keeps_the_original_headers_and_reads_back(
    letter: DeadLetter, original: list[tuple[str, bytes | None]]
) -> None:
    headers = letter.headers(original)
    assert headers[: len(original)] == original
    assert decode_dead_letter(headers) == letter


def test_of_a_letter_that_died_twice_the_last_death_counts() -> None:
    first = DeadLetter("t", 0, 1, "decode", "InvalidChange", "bad", 5)
    second = DeadLetter("t.dlq", 3, 2, "embed", "UnembeddableText", "worse", 6)
    assert decode_dead_letter(second.headers(first.headers([]))) == second
