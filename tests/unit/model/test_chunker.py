from __future__ import annotations

import pytest

from app.model.chunker import Chunk, Chunker, Cut
from app.model.hashing import HashingTokenizer
from app.model.tokens import Tokenizer
from schemas.errors import UnembeddableText
from tests.chunks import assert_sound


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
    paragraphs = [f"One two three {number} five six. Seven eight {number}, nine ten." for number in range(40)]
    chunks = chunker.chunk("\n\n".join(paragraphs), None)
    whole = sum(chunk.embed_text in paragraphs for chunk in chunks)
    assert whole >= 20
    ends = [chunk.embed_text[-1] for chunk in chunks]
    assert set(ends) == {"."}
    words = chunker.chunk(" ".join(f"word{number}" for number in range(500)), None)
    assert all(len(chunk.embed_text.split()) <= 20 for chunk in words)
    assert all(word.startswith("word") for chunk in words for word in chunk.embed_text.split())


def test_a_word_longer_than_the_budget_is_cut_between_its_tokens(tokenizer: Tokenizer) -> None:
    chunks = Chunker(tokenizer, 16).chunk("漢字。" * 30 + "un-be-liev-able-" * 20, None)
    assert len(chunks) > 1


def test_a_long_title_takes_at_most_64_tokens(tokenizer: Tokenizer) -> None:
    text = "word " * 1000
    chunks = Chunker(tokenizer, 256).chunk(text, "title " * 500)
    assert {chunk.embed_text.count("title") for chunk in chunks} == {64}
    assert max(chunk.embed_text.count("word") for chunk in chunks) > 180


def test_equal_input_gives_equal_chunks(tokenizer: Tokenizer) -> None:
    text = "Rivers feed the mill. The headrace brings them there. " * 100
    assert Chunker(tokenizer, 64).chunk(text, "T") == Chunker(tokenizer, 64).chunk(text, "T")


def test_text_that_is_not_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnembeddableText):
        Chunker(tokenizer, 256).chunk("broken \ud800", None)


def test_a_budget_too_small_for_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Chunker(HashingTokenizer(), 15)


def test_a_repeated_line_gives_chunks_that_are_full_and_nearly_all_equal(tokenizer: Tokenizer) -> None:
    chunks = Chunker(tokenizer, 64).chunk("the same line again and again\n" * 2000, None)
    assert len({chunk.embed_text for chunk in chunks}) <= 3
    assert len(chunks) <= 230  # ten lines of six words fit
    assert_sound("the same line again and again\n" * 2000, chunks, tokenizer, 64)


@pytest.mark.parametrize(
    "text",
    [
        ("{" + ",".join(f'"key{n}":[{n},true,null,"{n * 7919 % 997}"]' for n in range(9000)) + "}"),
        "".join(f"function f{n}(a,b){{var c=a+b*{n};return c}};" for n in range(4000)),
        "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVy" * 5000,
        "\n".join(f"2024-05-{n % 28 + 1:02} 12:{n % 60:02} INFO worker-{n % 7} took job {n}" for n in range(5000)),
        "| a | b |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(8000)),
        "ภาษาไทยไม่มีช่องว่างระหว่างคำ" * 3000,
        "#\n" * 30_000 + "# a\n\n" * 10_000 + "```\n" * 10_001 + "~~~x\n" * 10_000,
        ("Title\n=====\n" + "-----\n") * 5000,
    ],
    ids=["json", "javascript", "base64", "log", "table", "thai", "marks", "underlines"],
)
def test_what_is_no_prose_is_cut_soundly(tokenizer: Tokenizer, text: str) -> None:
    chunks = Chunker(tokenizer, 128).chunk(text, "Title")
    assert_sound(text, chunks, tokenizer, 128)
    mean = sum(tokenizer.counts([chunk.embed_text for chunk in chunks])) / len(chunks)
    assert mean > 40 or max(chunk.end - chunk.start for chunk in chunks) > 1000


def test_a_cut_comes_back_from_its_bytes() -> None:
    cut = Cut(7, ((0, 300), (302, 5000), (5000, 70_000)), ((), ((3, 9),), ((3, 9), (400, 402))))
    assert Cut.decode(cut.encode()) == cut
    assert Cut.decode(Cut(3, ((0, 0),)).encode()) == Cut(3, ((0, 0),))
    assert Cut.decode(Cut(0, ()).encode()) == Cut(0, ())


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x00\x01\x05", b"\x00\x00\x01\x02\x01\x09", b"\xff"])
def test_bytes_that_are_no_cut_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"no cut|inside a number"):
        Cut.decode(value)
