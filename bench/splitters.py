"""What Headrace's chunker is measured beside: LangChain's recursive splitter, and the chunker that was here before."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from app.model.chunker import Chunker
from app.model.tokens import ModelTokenizer, Tokenizer

OVERLAP_TOKENS = 20
_MIN_FILL_RATIO = 0.5
_BORDERS = (
    re.compile(r"\n[^\S\n]*\n\s*|\u2029\s*"),
    re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？｡।۔][」』”’）]*\s*|\n\s*"),
)
_WORD = re.compile(r"\s+")

Cut = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class Way:
    """timed, counted: the same; the latter may remember between calls, where a splitter is slow at counting tokens."""

    timed: Cut
    counted: Cut


def ways_of(tokenizer: ModelTokenizer, max_tokens: int) -> dict[str, Way]:
    """What is compared. Raises ImportError without langchain-text-splitters."""
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    def tokens(text: str) -> int:
        return tokenizer.counts([text])[0] - tokenizer.special_tokens

    def recursive(overlap: int) -> Way:
        timed, counted = (
            RecursiveCharacterTextSplitter(
                chunk_size=max_tokens - tokenizer.special_tokens, chunk_overlap=overlap, length_function=length
            ).split_text
            for length in (tokens, lru_cache(maxsize=1 << 19)(tokens))
        )
        return Way(timed, counted)

    def ours(text: str) -> list[str]:
        return [chunk.embed_text for chunk in chunker.chunk(text, None)]

    def before(text: str) -> list[str]:
        return _greedy(text, tokenizer, max_tokens)

    chunker = Chunker(tokenizer, max_tokens)
    return {
        "Headrace": Way(ours, ours),
        "recursive": recursive(0),
        f"recursive, overlap {OVERLAP_TOKENS}": recursive(OVERLAP_TOKENS),
        "Headrace before": Way(before, before),
    }


def _greedy(text: str, tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    """The chunks of a text as Headrace made them before: packed from the left.

    Each is as long as fits, and ends at the last paragraph, else sentence, else word, in its second half.
    """
    starts = [start for start, _ in tokenizer.spans(text)]
    room = max_tokens - tokenizer.special_tokens
    chunks, start, end = [], len(text) - len(text.lstrip()), len(text.rstrip())
    while start < end:
        at = bisect_left(starts, start) + room
        limit = starts[at] if at < len(starts) else end
        stop = end if limit >= end else _border(text, start, limit)
        chunks.append(text[start:stop].rstrip())
        start = stop + len(text[stop:]) - len(text[stop:].lstrip()) if text[stop : stop + 1].isspace() else stop
    return chunks


def _border(text: str, start: int, limit: int) -> int:
    least = start + int((limit - start) * _MIN_FILL_RATIO)
    for kind, lowest in (*((kind, least) for kind in _BORDERS), (_WORD, start)):
        ends = [match.end() for match in kind.finditer(text, lowest, limit)]
        if ends and ends[-1] > start:
            return ends[-1]
    return limit
