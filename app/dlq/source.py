"""What came after the letters in their source topic: whether replaying one would undo something newer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.dlq.letters import Letter
from app.kafka.reading import Advance, Span, TopicReader
from schemas.dead_letter import replay_source


@dataclass(slots=True)
class SourceTopic:
    """The part of the source topic from the letters on, as far as it has been read."""

    reader: TopicReader
    topic: str
    _position: dict[int, int] = field(default_factory=dict)  # by partition, where to read on
    _keys: set[tuple[int, bytes | None]] = field(default_factory=set)
    _places: set[tuple[int, int]] = field(default_factory=set)
    _found: dict[tuple[int, int], bytes | None] = field(default_factory=dict)  # the key at a letter's source position
    _last: dict[tuple[int, bytes | None], int] = field(default_factory=dict)
    _repeated: set[tuple[int, int]] = field(default_factory=set)
    _ends: dict[int, int] = field(default_factory=dict)

    def watch(self, letters: Sequence[Letter]) -> None:
        """Say, before the first `catch_up`, which letters will be asked about."""
        for letter in letters:
            partition, offset = letter.why.partition, letter.why.offset
            self._keys.add((partition, letter.event.key))
            self._places.add((partition, offset))
            self._position[partition] = min(offset, self._position.get(partition, offset))

    def ahead(self) -> dict[int, Span]:
        """What there is to read at present."""
        spans = self.reader.spans(self.topic)
        self._ends = {partition: end for partition, (_, end) in spans.items()}
        return {
            partition: (max(position, spans[partition][0]), spans[partition][1])
            for partition, position in self._position.items()
            if partition in spans
        }

    def catch_up(self, spans: dict[int, Span], advance: Advance | None = None) -> None:
        """Read what is `ahead`."""
        for event in self.reader.read(self.topic, spans, advance):
            place, document = (event.partition, event.offset), (event.partition, event.key)
            if place in self._places:
                self._found[place] = event.key
            if document in self._keys:
                self._last[document] = event.offset
            repeats = replay_source(event.headers)
            if repeats is not None:
                self._repeated.add(repeats)
        for partition, (_, end) in spans.items():
            self._position[partition] = max(end, self._position[partition])

    def foreign(self, letter: Letter) -> bool:
        """Whether the topic was made again since: another event, or none yet, is where this one was.

        One that is gone by compaction says nothing.
        """
        place = (letter.why.partition, letter.why.offset)
        if place in self._found:
            return self._found[place] != letter.event.key
        return letter.why.offset >= self._ends.get(letter.why.partition, 0)

    def repeated(self, letter: Letter) -> bool:
        """Whether it has been replayed already."""
        return (letter.why.partition, letter.why.offset) in self._repeated

    def newest(self, letter: Letter) -> int | None:
        """The offset of the last later change of its document."""
        last = self._last.get((letter.why.partition, letter.event.key), -1)
        return last if last > letter.why.offset else None
