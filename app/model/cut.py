"""What cutting a document gives: spans of its text, what goes before each, and both as a few bytes for a cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Self

Span = tuple[int, int]  # half-open, in code points of a document's text
# context and overlap make what the model is given longer than the text, by less than this
_MOST_GIVEN, _GIVEN_ROOM = 64, 65_536
_MOST_SHIFT = 42  # of a number in 7 bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a document.

    start, end: half-open span in code points of the document's text; empty for a document that is only a title.
    embed_text: what the model is given, line by line: the title, the headings that the span is under (outermost
    first), the header row of the table it begins in, and the text of the span.
    """

    start: int
    end: int
    embed_text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """How a document is cut: a pure function of its title, its text and the chunker, worth keeping.

    title_chars: how much of the title, in code points, goes before each chunk. spans: see Chunk.
    contexts: for each span, those of the lines that go between title and text; () where no span has any.
    """

    title_chars: int
    spans: tuple[Span, ...]
    contexts: tuple[tuple[Span, ...], ...] = ()

    def chunks(self, text: str, title: str | None) -> list[Chunk]:
        """The chunks of the document that was cut."""
        head = (title or "").strip()[: self.title_chars]
        return [
            Chunk(*span, embed_text(text, head, context, span))
            for span, context in zip(self.spans, self.contexts or repeat(()), strict=False)
        ]

    def fits(self, text: str) -> bool:
        """Whether it can be a cut of this text: what a cache that others can write gives may be anything."""
        if not self.spans:
            return not text.strip()
        furthest = max(self.spans[-1][1], *(line[1] for context in self.contexts for line in context), 0)
        given = sum(end - start for context in (self.spans, *self.contexts) for start, end in context)
        return furthest <= len(text) and given <= _MOST_GIVEN * len(text) + _GIVEN_ROOM

    def encode(self) -> bytes:
        """As bytes to keep in a cache, 4 to 6 for each chunk of ordinary size.

        Unsigned LEB128 numbers: title_chars; how many different context lines there are; each of these as distance
        from the end of the one before and length; each span likewise, with how many context lines it has and which.
        """
        contexts = self.contexts or ((),) * len(self.spans)
        lines = sorted({line for context in contexts for line in context})
        place = {line: at for at, line in enumerate(lines)}
        numbers = [self.title_chars, len(lines), *chain.from_iterable(_distances(lines))]
        for distances, context in zip(_distances(self.spans), contexts, strict=True):
            numbers += [*distances, len(context), *(place[line] for line in context)]
        return b"".join(map(_leb128, numbers))

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """What `encode` gave. Raises ValueError where the bytes are no cut."""
        try:
            return cls(*_parts(_numbers(value)))
        except (StopIteration, IndexError) as error:
            raise ValueError("the bytes are no cut") from error


def embed_text(text: str, head: str, context: Iterable[Span], span: Span) -> str:
    """What the model is given for a span; see Chunk."""
    return "\n".join(filter(None, (head, *(text[start:end] for start, end in context), text[slice(*span)])))


def _distances(spans: Sequence[Span]) -> Iterator[Span]:
    """Of spans in order: (start, counted from the end of the one before; length)."""
    before = 0
    for start, end in spans:
        yield start - before, end - start
        before = end


def _parts(numbers: Iterator[int]) -> tuple[int, tuple[Span, ...], tuple[tuple[Span, ...], ...]]:
    """The fields of Cut. Raises StopIteration or IndexError where numbers are missing or wrong."""
    title_chars, line_count = next(numbers), next(numbers)
    lines: list[Span] = []
    for _ in range(line_count):
        lines.append(_next_span(lines, numbers))
    spans: list[Span] = []
    contexts: list[tuple[Span, ...]] = []
    for gap in numbers:
        spans.append(_next_span(spans, chain((gap,), numbers)))
        contexts.append(tuple([lines[at] for at in islice(numbers, next(numbers))]))
    return title_chars, tuple(spans), tuple(contexts) if any(contexts) else ()


def _next_span(spans: list[Span], numbers: Iterator[int]) -> Span:
    start = (spans[-1][1] if spans else 0) + next(numbers)
    return start, start + next(numbers)


def _leb128(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _numbers(value: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in value:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
        elif shift > _MOST_SHIFT:
            raise ValueError("a number is larger than any text")
    if shift:
        raise ValueError("the bytes end inside a number")
