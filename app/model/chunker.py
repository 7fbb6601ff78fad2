"""Cuts a text into chunks that fit the model, at borders that depend on the text around them, not on their position.

So an edit changes the chunks around it alone; the vectors of all others are known. See docs/chunking.md.
"""

from __future__ import annotations

import re

from app.model.borders import units_of
from app.model.context import Contexts
from app.model.cut import Chunk, Cut, Span, embed_text
from app.model.meter import Meter
from app.model.segments import pieces
from app.model.sizes import Sizer
from app.model.tokens import Tokenizer, check_unicode

__all__ = ["CHUNKER_VERSION", "Chunk", "Chunker", "Cut"]

CHUNKER_VERSION = "chunker2"  # part of the model fingerprint: change it when the same text gives other chunks

_TITLE_MAX_TOKENS = 64  # a title is repeated in every chunk: it may not crowd out the text
_TITLE_MAX_CODE_POINTS = 2000
_CONTEXT_MAX_TOKENS = 32  # for headings, and as much again for the header row of a table
_CONTEXT_MAX_RATIO = 0.25  # of the room, likewise
_JOIN_TOKENS = 2  # tokenizers other than WordPiece count differently at the seams of a slice
_MIN_BUDGET_TOKENS = 16
_MAX_CODE_POINTS = 2000  # a chunk's length even if it is one token (BERT: a word of over 100 letters is one [UNK])
_CODE_POINTS_PER_TOKEN = 8  # English has 4 to 5; more is binary data, tables, or words the model does not know

_SPACE = re.compile(r"\s")
_NOT_SPACE = re.compile(r"\S")

Piece = tuple[Span, tuple[Span, ...]]  # a span, and the lines of its context


class Chunker:
    """Cuts documents for one model. Holds no state between calls; safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_chunk_tokens: int) -> None:
        """Set the budget: `max_chunk_tokens` (at least 16) with special tokens and title, at most the model's own."""
        self._tokenizer = tokenizer
        self._meter = Meter(tokenizer)
        self._max_tokens = min(max_chunk_tokens, tokenizer.max_tokens)
        if self._max_tokens < _MIN_BUDGET_TOKENS:
            raise ValueError(f"max_chunk_tokens must be at least {_MIN_BUDGET_TOKENS}, not {self._max_tokens}")

    def chunk(self, text: str, title: str | None) -> list[Chunk]:
        """`cut`, and the chunks of it."""
        return self.cut(text, title).chunks(text, title)

    def cut(self, text: str, title: str | None) -> Cut:
        """Spans in the order of the text.

        Spans do not overlap, have no white space at either end, and leave out nothing but white space. A blank text
        gives no span, or, where there is a title, one that is empty. Linear in the text, about a second for 1 MB.
        Raises UnembeddableText when text or title is not valid Unicode.
        """
        check_unicode([text])
        room = self._max_tokens - self._tokenizer.special_tokens - _JOIN_TOKENS
        title = (title or "").strip()[:_TITLE_MAX_CODE_POINTS]
        head, head_tokens = self._meter.limited(title, min(_TITLE_MAX_TOKENS, room // 2))
        start, end = _stripped(text, 0, len(text))
        if start == end:
            return Cut(len(head), ((0, 0),) if head else ())
        room -= head_tokens
        if self._fits(text[start:end], room):
            return Cut(len(head), ((start, end),))
        return self._cut(text, head, room)

    def _fits(self, text: str, room: int) -> bool:
        if text.isascii() and len(text) <= room:  # a token has at least one character
            return True
        return len(text) <= room * _code_points_per_token(room) and self._meter.tokens([text])[0] <= room

    def _cut(self, text: str, head: str, room: int) -> Cut:
        per_token = _code_points_per_token(room)
        units = units_of(text)
        context_max_tokens = min(_CONTEXT_MAX_TOKENS, int(room * _CONTEXT_MAX_RATIO))
        contexts = Contexts(text, head, (unit.place for unit in units), self._meter, context_max_tokens)
        sizer = Sizer(self._meter, per_token)
        units, layout = sizer.layout(text, units, lambda place: (room - contexts.tokens(place)) * per_token)
        found = [
            ((units[first].start, units[last - 1].stop), contexts.lines(units[first].place))
            for first, last in pieces(layout, room * per_token)
        ]
        spans, lines = zip(*self._fitting(text, head, found), strict=True)
        return Cut(len(head), spans, lines if any(lines) else ())

    def _fitting(self, text: str, head: str, found: list[Piece]) -> list[Piece]:
        """Pieces that fit: where a sum of tokens may be less than the tokens of the whole, these are counted."""
        by_words = self._tokenizer.splits_at_space
        doubtful = [at for at, (span, _) in enumerate(found) if not by_words or _is_torn(text, *span)]
        texts = [embed_text(text, head, found[at][1], found[at][0]) for at in doubtful]
        counts = self._tokenizer.counts(texts)
        excess = {at for at, count in zip(doubtful, counts, strict=True) if count > self._max_tokens}
        fitting: list[Piece] = []
        for at, (span, context) in enumerate(found):
            if at not in excess or (span[1] - span[0] == 1 and not context):
                fitting.append((span, context))
            elif context:
                fitting += self._fitting(text, head, [(span, ())])
            else:
                fitting += self._fitting(text, head, [(half, ()) for half in _halves(text, *span)])
        return fitting


def _code_points_per_token(room: int) -> int:
    return max(_CODE_POINTS_PER_TOKEN, _MAX_CODE_POINTS // room)


def _stripped(text: str, start: int, end: int) -> Span:
    """The span without white space at its ends; empty if it is nothing else."""
    begins = _NOT_SPACE.search(text, start, end)
    return (begins.start(), start + len(text[start:end].rstrip())) if begins else (start, start)


def _halves(text: str, start: int, end: int) -> list[Span]:
    """The parts before and after the first white space behind the middle, or the middle."""
    middle = (start + end) // 2
    space = _SPACE.search(text, middle, end)
    cut = space.start() if space else middle
    return [_stripped(text, start, cut), _stripped(text, cut, end)]


def _is_torn(text: str, start: int, end: int) -> bool:
    """Whether the model may see other words at the ends of the span than it saw in the whole text."""
    return (start > 0 and not _separates(text[start - 1])) or (end < len(text) and not _separates(text[end]))


def _separates(character: str) -> bool:
    """Whether it is white space for tokenizers too: BERT drops control characters, and so joins what they part."""
    return character.isspace() and character not in "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
