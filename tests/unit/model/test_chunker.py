from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.chunker import Chunk, Chunker
from app.model.hashing import HashingTokenizer
from app.model.tokens import Tokenizer
from schemas.errors import UnembeddableText

_ALPHABET = st.one_of(
    st.sampled_from(list("abcde  \n\n..!?。漢字\r\0\t\u0301😀\u200d\u2029")),
    st.characters(codec="utf-8"),
)
_PARTS = st.one_of(
    st.text(_ALPHABET, max_size=40),
    st.sampled_from(["word ", "Unbelievably so. ", "\n\n", "x" * 130, " " * 300, "漢" * 90, "😀" * 50]),
)
_TEXTS = st.lists(st.tuples(_PARTS, st.integers(1, 30)), max_size=12).map(
    lambda parts: "".join(p * n for p, n in parts)
)
_TITLES = st.one_of(st.none(), st.text(_ALPHABET, max_size=30), st.just("A very long title of many words " * 50))


def assert_sound(text: str, chunks: list[Chunk], tokenizer: Tokenizer, max_tokens: int) -> None:
    covered = [text[chunk.start : chunk.end] for chunk in chunks]
    assert all(span and span == span.strip() for span in covered)
    assert all(before.end <= after.start for before, after in pairwise(chunks))
    ends = [0, *(chunk.end for chunk in chunks)]
    starts = [*(chunk.start for chunk in chunks), len(text)]
    assert all(not text[end:start].strip() for end, start in zip(ends, starts, strict=True))
    assert all(chunk.embed_text.endswith(span) for chunk, span in zip(chunks, covered, strict=True))
    assert max(tokenizer.counts([chunk.embed_text for chunk in chunks]), default=0) <= max_tokens


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_TEXTS, title=_TITLES, max_tokens=st.sampled_from([16, 17, 40, 256, 1000]))
def test_chunks_cover_all_text_in_order_without_overlap_within_the_budget(
    tokenizer: Tokenizer, text: str, title: str | None, max_tokens: int
) -> None:
    chunks = Chunker(tokenizer, max_tokens).chunk(text, title)
    if not text.strip():
        assert chunks == [] or [(chunk.start, chunk.end) for chunk in chunks] == [(0, 0)]
        return
    assert_sound(text, chunks, tokenizer, min(max_tokens, tokenizer.max_tokens))


@pytest.mark.parametrize(
    "text",
    [
        "A sentence about nothing much, of ten words or so. " * 20_000,
        "x" * 1_000_000,
        ("x" * 2050 + " ") * 100,
        "漢字と仮名。" * 20_000,
        "😀" * 100_000,
        "\0" * 100_000 + "a",
        "a line\r\n" * 50_000,
        " " * 500_000 + "a" + "\n" * 500_000,
        "." * 100_000,
    ],
    ids=["english", "one word", "long words", "cjk", "emoji", "NUL", "windows lines", "mostly blank", "dots"],
)
def test_extreme_documents_are_cut_soundly(tokenizer: Tokenizer, text: str) -> None:
    chunks = Chunker(tokenizer, 256).chunk(text, "Title")
    assert_sound(text, chunks, tokenizer, 256)
    assert max(chunk.end - chunk.start for chunk in chunks) <= 2016


def test_a_document_that_fits_is_one_chunk_with_its_title_in_front(tokenizer: Tokenizer) -> None:
    chunks = Chunker(tokenizer, 256).chunk("  One.\n\nTwo.  ", " A title ")
    assert chunks == [Chunk(2, 12, "A title\nOne.\n\nTwo.")]


def test_one_character_is_one_chunk(tokenizer: Tokenizer) -> None:
    assert Chunker(tokenizer, 256).chunk("x", None) == [Chunk(0, 1, "x")]


def test_blank_text_gives_nothing_or_the_title_alone(tokenizer: Tokenizer) -> None:
    chunker = Chunker(tokenizer, 256)
    assert chunker.chunk("", None) == chunker.chunk(" \r\n", "  ") == []
    assert chunker.chunk(" \n ", "Title") == [Chunk(0, 0, "Title")]


def test_cuts_are_made_between_paragraphs_before_sentences_before_words() -> None:
    chunker = Chunker(HashingTokenizer(), 24)  # 20 tokens of text
    paragraphs = "One two three four five six. Seven eight nine ten.\n\n" * 3
    assert [chunk.embed_text for chunk in chunker.chunk(paragraphs, None)] == [paragraphs[:50]] * 3
    sentences = "One two three four five six seven. " * 4
    assert [chunk.embed_text for chunk in chunker.chunk(sentences, None)] == [sentences[:69]] * 2
    words = "word " * 50
    assert [len(chunk.embed_text.split()) for chunk in chunker.chunk(words, None)] == [20, 20, 10]


def test_a_word_longer_than_the_budget_is_cut_between_its_tokens(tokenizer: Tokenizer) -> None:
    chunks = Chunker(tokenizer, 16).chunk("漢字。" * 30 + "un-be-liev-able-" * 20, None)
    assert len(chunks) > 1


def test_a_long_title_takes_at_most_64_tokens(tokenizer: Tokenizer) -> None:
    text = "word " * 1000
    chunk = Chunker(tokenizer, 256).chunk(text, "title " * 500)[0]
    assert chunk.embed_text.count("title") == 64
    assert chunk.embed_text.count("word") > 180


def test_equal_input_gives_equal_chunks(tokenizer: Tokenizer) -> None:
    text = "Rivers feed the mill. The headrace brings them there. " * 100
    assert Chunker(tokenizer, 64).chunk(text, "T") == Chunker(tokenizer, 64).chunk(text, "T")


def test_text_that_is_not_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnembeddableText):
        Chunker(tokenizer, 256).chunk("broken \ud800", None)


def test_a_budget_too_small_for_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Chunker(HashingTokenizer(), 15)
