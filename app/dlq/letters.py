"""Letters as they lie in the dead-letter topic, and which of them are meant."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from app.event import Event
from app.kafka.reading import Advance, Span, TopicReader
from app.observe.tracing import trace_id_of
from schemas.dead_letter import DeadLetter, decode_dead_letter, original_headers, replay_count
from schemas.errors import InvalidDeadLetter, NotFound, Rejected


@dataclass(frozen=True)
class Letter:
    """One record of the dead-letter topic. event: as it lies there, with the error headers. why: what those say."""

    event: Event
    why: DeadLetter

    @property
    def place(self) -> str:
        """Where the letter is: what `show` takes."""
        return f"{self.event.partition}:{self.event.offset}"

    @property
    def source(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the event that failed."""
        return self.why.topic, self.why.partition, self.why.offset

    @property
    def id(self) -> str | None:
        """The document id, as far as the key is one."""
        return None if self.event.key is None else self.event.key.decode(errors="replace")

    @cached_property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Those that the event came with."""
        return original_headers(self.event.headers)

    @property
    def trace_id(self) -> str | None:
        """Of the producer's trace, 32 hex digits."""
        value = dict(self.headers).get("traceparent") or b""
        return trace_id_of(value.decode(errors="replace"))

    @property
    def replays(self) -> int:
        """How many times the event had been replayed when it failed."""
        return replay_count(self.headers)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters are meant; what is empty or None leaves all through.

    classes: of the error. partitions: of the source. since_ms, until_ms: when it was set aside, until is exclusive.
    """

    classes: Sequence[str] = ()
    stages: Sequence[str] = ()
    ids: Sequence[str] = ()
    partitions: Sequence[int] = ()
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def empty(self) -> bool:
        """Whether every letter is meant."""
        return self == Filters()

    def match(self, letter: Letter) -> bool:
        """Whether the letter is meant."""
        why = letter.why
        return (
            (not self.classes or why.error_class.lower() in {name.lower() for name in self.classes})
            and (not self.stages or why.stage in self.stages)
            and (not self.ids or letter.id in self.ids)
            and (not self.partitions or why.partition in self.partitions)
            and (self.since_ms is None or why.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or why.timestamp_ms < self.until_ms)
        )


@dataclass(slots=True)
class LetterBox:
    """The dead-letter topic as it is when reading begins. repeated, foreign: counts of what was left out."""

    reader: TopicReader
    topic: str
    repeated: int = 0
    foreign: int = 0
    _seen: set[tuple[str, int, int]] = field(default_factory=set)

    def letters(self, filters: Filters, spans: dict[int, Span], advance: Advance) -> Generator[Letter]:
        """Letters in the order in which they lie there, each source position once."""
        for event in self.reader.read(self.topic, spans, advance):
            try:
                letter = letter_of(event)
            except Rejected:
                self.foreign += 1
                continue
            if letter.source in self._seen:
                self.repeated += 1
                continue
            self._seen.add(letter.source)
            if filters.match(letter):
                yield letter

    def letter(self, partition: int, offset: int) -> Letter:
        """The one at a place. Raises NotFound with what there is, or Rejected if it is no dead letter of ours."""
        spans = self.reader.spans(self.topic)
        first, end = spans.get(partition, (0, 0))
        if first <= offset < end:
            for event in self.reader.read(self.topic, {partition: (offset, offset + 1)}):
                return letter_of(event)
        there = ", ".join(
            f"{number}:{low} to {number}:{high - 1}" for number, (low, high) in spans.items() if low < high
        )
        raise NotFound(f"no dead letter at {partition}:{offset}; {self.topic} has {there or 'none'}")


def letter_of(event: Event) -> Letter:
    """Raises Rejected: somebody else's record."""
    try:
        return Letter(event, decode_dead_letter(event.headers))
    except InvalidDeadLetter as error:
        raise Rejected(
            f"the record at {event.partition}:{event.offset} is no dead letter of Headrace: {error}"
        ) from error
