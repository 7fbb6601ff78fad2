"""Cuts a text into chunks that fit the model.

Cuts are made where the text itself pauses: between paragraphs, else sentences, else words, else tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from app.model.tokens import Tokenizer

CHUNKER_VERSION = "chunker1"  # part of the model fingerprint: change it when the same text gives other chunks

_TITLE_MAX_TOKENS = 64  # a title is repeated in every chunk: it may not crowd out the text
_TITLE_MAX_CODE_POINTS = 2000
_JOIN_TOKENS = 2  # tokenizers other than WordPiece count differently at the seams of a slice
_MIN_BUDGET_TOKENS = 16
_MAX_CODE_POINTS = 2000  # a chunk's length even if it is one token (BERT: a word of over 100 letters is one [UNK])
_CODE_POINTS_PER_TOKEN = 8  # English has 4 to 5; more is binary data, tables, or words the model does not know
_MIN_FILL_RATIO = 0.5  # a better kind of border is not worth a chunk less than half full

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*|\u2029\s*")
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？｡।۔][」』”’）]*\s*|\n\s*")
_WORD = re.compile(r"\s+")
_NOT_SPACE = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a document.

    start, end: half-open span in code points of the document's text; empty for a document that is only a title.
    embed_text: what the model is given: the title, a newline, and the text of the span.
    """

    start: int
    end: int
    embed_text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """How a document is cut: a pure function of its title, its text and the chunker, worth keeping.

    title_chars: how much of the title, in code points, goes before each chunk. spans: see Chunk.
    """

    title_chars: int
    spans: tuple[tuple[int, int], ...]

    def chunks(self, text: str, title: str | None) -> list[Chunk]:
        """The chunks of the document that was cut."""
        head = (title or "").strip()[: self.title_chars]
        return [Chunk(start, end, "\n".join(filter(None, (head, text[start:end])))) for start, end in self.spans]


class Chunker:
    """Cuts documents for one model. Holds no state between calls; safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_chunk_tokens: int) -> None:
        """Set the budget: `max_chunk_tokens` (at least 16) with special tokens and title, at most the model's own."""
        self._tokenizer = tokenizer
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
        room = self._max_tokens - self._tokenizer.special_tokens - _JOIN_TOKENS
        head, head_tokens = self._head(title or "", min(_TITLE_MAX_TOKENS, room // 2))
        if not text or text.isspace():
            return Cut(len(head), ((0, 0),) if head else ())
        room -= head_tokens
        if text.isascii() and len(text) <= room:  # a token has at least one character
            return Cut(len(head), ((_skip_space(text, 0), len(text.rstrip())),))
        max_code_points = max(_MAX_CODE_POINTS, _CODE_POINTS_PER_TOKEN * room)
        return Cut(len(head), tuple(self._pieces(text, head and head + "\n", room, max_code_points)))

    def _head(self, title: str, max_tokens: int) -> tuple[str, int]:
        """The title cut to `max_tokens`, and how many tokens that is at most, with the newline after it."""
        title = title.strip()[:_TITLE_MAX_CODE_POINTS]
        if title.isascii() and len(title) < max_tokens:
            return title, len(title) + 1 if title else 0
        while title:
            spans = self._tokenizer.spans(title)
            if len(spans) <= max_tokens:
                return title, len(spans) + 1
            title = title[: min(spans[max_tokens - 1][1], len(title) - 1)].rstrip()
        return "", 0

    def _pieces(self, text: str, head: str, room: int, max_code_points: int) -> list[tuple[int, int]]:
        """Spans that fit. Those cut inside a word are counted again, since half a word may be more tokens."""
        spans = list(_cut(text, self._tokenizer.spans(text), room, max_code_points))
        torn = [index for index, span in enumerate(spans) if _is_torn(text, *span)]
        counts = self._tokenizer.counts([head + text[slice(*spans[index])] for index in torn])
        excess = {index for index, count in zip(torn, counts, strict=True) if count > self._max_tokens}
        fitting: list[tuple[int, int]] = []
        for index, (start, end) in enumerate(spans):
            if index in excess and end - start > 1:
                smaller = self._pieces(text[start:end], head, room, (end - start + 1) // 2)
                fitting.extend((start + a, start + b) for a, b in smaller)
            else:
                fitting.append((start, end))
        return fitting


def _cut(text: str, tokens: list[tuple[int, int]], max_tokens: int, max_code_points: int) -> Iterator[tuple[int, int]]:
    """Pack greedily: each span is as long as tokens and code points allow, and ends at the best border in reach."""
    starts = [start for start, _ in tokens]
    end = len(text.rstrip())
    start = _skip_space(text, 0)
    while start < end:
        index = bisect_left(starts, start) + max_tokens
        limit = max(starts[index], start + 1) if index < len(starts) else end
        if limit - start > max_code_points:
            limit = _last_token_start(starts, start, start + max_code_points)
        stop = end if limit >= end else _border(text, start, limit)
        yield start, start + len(text[start:stop].rstrip())
        start = _skip_space(text, stop)


def _border(text: str, start: int, limit: int) -> int:
    """Where to cut in (start, limit]: the last border of the best kind; else at the limit, inside a word."""
    reach = _skip_space(text, limit)  # white space after the limit belongs to the border at the limit
    least = start + int((limit - start) * _MIN_FILL_RATIO)
    for kind, lowest in ((_PARAGRAPH, least), (_SENTENCE, least), (_WORD, start)):
        ends = [match.end() for match in kind.finditer(text, lowest, reach)]
        if ends and ends[-1] > start:
            return ends[-1]
    return limit


def _last_token_start(starts: list[int], start: int, limit: int) -> int:
    """The last token border in (start, limit], else the limit itself: a token may be longer than a chunk."""
    index = bisect_left(starts, limit + 1) - 1
    return starts[index] if index >= 0 and starts[index] > start else limit


def _is_torn(text: str, start: int, end: int) -> bool:
    """Whether the model may see other words at the ends of the span than it saw in the whole text."""
    return (start > 0 and not _separates(text[start - 1])) or (end < len(text) and not _separates(text[end]))


def _separates(character: str) -> bool:
    """Whether it is white space for tokenizers too: BERT drops control characters, and so joins what they part."""
    return character.isspace() and character not in "\x0b\x0c\x1c\x1d\x1e\x1f\x85"


def _skip_space(text: str, position: int) -> int:
    """First position at or after `position` that is not white space."""
    found = _NOT_SPACE.search(text, position)
    return found.start() if found else len(text)
