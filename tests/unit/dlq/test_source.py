"""What is known of a source topic in which compaction or retention has left gaps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.dlq.letters import Letter
from app.dlq.replay import Fate, Rules
from app.dlq.source import SourceTopic
from app.event import Event
from app.kafka.reading import Advance, Span
from schemas.dead_letter import DeadLetter

RULES = Rules("c.changes", "c.vectors", most=3, force=False, tombstone_ms=1000)


class Log:
    """Stands for TopicReader: one partition of which `events` are left."""

    def __init__(self, first: int, end: int, *events: tuple[int, bytes]) -> None:
        self.span = (first, end)
        self.events = [Event(0, offset, key, b"", (), 0, 0) for offset, key in events]

    def spans(self, _: str) -> dict[int, Span]:
        return {0: self.span}

    def read(self, _: str, spans: dict[int, Span], advance: Advance | None = None) -> Iterator[Event]:
        first, end = spans[0]
        return (event for event in self.events if first <= event.offset < end)


def letter(offset: int, key: bytes) -> Letter:
    return Letter(Event(0, 0, key, b"", (), 0, 0), DeadLetter("c.changes", 0, offset, "decode", "E", "m", 0))


@pytest.mark.parametrize(
    ("log", "fate"),
    [
        (Log(0, 9, (5, b"a"), (8, b"b")), Fate.REPLAY),
        (Log(0, 9, (8, b"a")), Fate.SUPERSEDED),
        (Log(0, 9, (3, b"a"), (8, b"b")), Fate.REPLAY),
        (Log(7, 9, (7, b"b"), (8, b"b")), Fate.REPLAY),
        (Log(9, 9), Fate.REPLAY),
        (Log(0, 9, (5, b"b"), (8, b"a")), Fate.REFUSED),
        (Log(0, 5, (3, b"a")), Fate.REFUSED),
    ],
    ids=[
        "there",
        "compacted away",
        "gone, an older one is left",
        "dropped",
        "all dropped",
        "made again",
        "shorter now",
    ],
)
def test_the_fate_of_a_letter_at_offset_5(log: Log, fate: Fate) -> None:
    source = SourceTopic(log, "c.changes")  # type: ignore[arg-type]
    source.watch([letter(5, b"a")])
    source.catch_up(source.ahead())
    assert RULES.judge(letter(5, b"a"), source, now_ms=1000).fate is fate


def test_what_comes_later_is_read_on_from_where_reading_ended() -> None:
    log = Log(0, 6, (5, b"a"))
    source = SourceTopic(log, "c.changes")  # type: ignore[arg-type]
    source.watch([letter(5, b"a")])
    source.catch_up(source.ahead())
    assert source.newest(letter(5, b"a")) is None
    log.span = (0, 8)
    log.events = [Event(0, 7, b"a", b"", (("headrace-dlq-source", b"0:5"),), 0, 0)]
    assert source.ahead() == {0: (6, 8)}
    source.catch_up(source.ahead())
    assert source.newest(letter(5, b"a")) == 7
    assert source.repeated(letter(5, b"a"))
    assert RULES.judge(letter(5, b"a"), source, now_ms=1001).fate is Fate.REPEATED
