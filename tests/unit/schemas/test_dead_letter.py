"""The headers of dead letters and of replayed events."""

from __future__ import annotations

import pytest

from schemas.dead_letter import (
    DeadLetter,
    decode_dead_letter,
    original_headers,
    place_of,
    replay_count,
    replay_headers,
    replay_source,
)
from schemas.errors import InvalidDeadLetter

LETTER = DeadLetter("c.changes", 2, 41, "embed", "UnembeddableText", "no – nowhere", 1_700_000_000_000)
ORIGINAL = [("traceparent", b"00-x"), ("twice", b"1"), ("twice", b"2"), ("none", None), ("raw", b"\xff")]


def test_what_is_written_is_read_back_and_the_original_headers_are_left_as_they_were() -> None:
    written = LETTER.headers(ORIGINAL)
    assert decode_dead_letter(written) == LETTER
    assert original_headers(written) == ORIGINAL


def test_of_two_generations_of_error_headers_the_last_counts() -> None:
    older = DeadLetter("a", 0, 0, "decode", "InvalidChange", "first", 1)
    assert decode_dead_letter(LETTER.headers(older.headers(ORIGINAL))) == LETTER


@pytest.mark.parametrize(
    "headers",
    [
        ORIGINAL,
        LETTER.headers([])[:-1],
        [*LETTER.headers([]), ("__connect.errors.offset", b"x")],
        [*LETTER.headers([]), ("__connect.errors.topic", b"\xff")],
    ],
)
def test_somebody_elses_headers_are_an_error(headers: list[tuple[str, bytes | None]]) -> None:
    with pytest.raises(InvalidDeadLetter):
        decode_dead_letter(headers)


def test_a_replayed_event_counts_on_and_names_the_event_it_repeats() -> None:
    once = replay_headers(LETTER.headers(ORIGINAL), LETTER, forced=False)
    assert once[:-3] == ORIGINAL
    assert (replay_count(once), replay_source(once), place_of(once, 77)) == (1, (2, 41), 41)
    again = DeadLetter("c.changes", 2, 77, "embed", "UnembeddableText", "again", 2)
    twice = replay_headers(again.headers(once), again, forced=False)
    assert (replay_count(twice), replay_source(twice), place_of(twice, 90)) == (2, (2, 77), 41)
    assert len(twice) == len(once)
    forced = replay_headers(again.headers(once), again, forced=True)
    assert (replay_count(forced), replay_source(forced), place_of(forced, 90)) == (2, (2, 77), 90)


@pytest.mark.parametrize("value", [None, b"", b"x", b"-1", b"91", b"9" * 30, b"\xff"])
def test_a_place_that_cannot_be_is_that_of_the_event_itself(value: bytes | None) -> None:
    assert place_of([("headrace-dlq-place", value)], 90) == 90


@pytest.mark.parametrize("value", [None, b"", b"x", b"-1", b"1:", b":2", b"\xff:1"])
def test_headers_that_are_no_numbers_are_none_of_ours(value: bytes | None) -> None:
    assert replay_count([("headrace-dlq-replays", value)]) == 0
    assert replay_source([("headrace-dlq-source", value)]) is None
