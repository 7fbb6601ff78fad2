"""What holds of the chunks of any document."""

from __future__ import annotations

from itertools import pairwise

from app.model.chunker import Chunk
from app.model.tokens import Tokenizer


def assert_sound(text: str, chunks: list[Chunk], tokenizer: Tokenizer, max_tokens: int) -> None:
    """Spans in order, apart, with no white space at their ends, leaving out nothing else; chunks within the budget."""
    covered = [text[chunk.start : chunk.end] for chunk in chunks]
    assert all(span and span == span.strip() for span in covered)
    assert all(before.end <= after.start for before, after in pairwise(chunks))
    ends = [0, *(chunk.end for chunk in chunks)]
    starts = [*(chunk.start for chunk in chunks), len(text)]
    assert all(not text[end:start].strip() for end, start in zip(ends, starts, strict=True))
    assert all(chunk.embed_text.endswith(span) for chunk, span in zip(chunks, covered, strict=True))
    assert max(tokenizer.counts([chunk.embed_text for chunk in chunks]), default=0) <= max_tokens
