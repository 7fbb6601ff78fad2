"""Headings, tables, code and scripts without spaces: where they are cut, and what goes with each chunk."""

from __future__ import annotations

import pytest

from app.model.borders import Rank, units_of
from app.model.chunker import Chunk, Chunker
from app.model.hashing import HashingTokenizer

_TOKENIZER = HashingTokenizer()
_PROSE = " ".join(f"Sentence {n} says what the number {n * 31 % 97} is about." for n in range(12))


def cut(text: str, title: str | None = "Title", max_tokens: int = 64) -> list[Chunk]:
    return Chunker(_TOKENIZER, max_tokens).chunk(text, title)


def headings(text: str) -> list[list[str]]:
    """Of each unit."""
    return [[text[start:end] for start, end in unit.place.headings] for unit in units_of(text)]


def context_of(chunk: Chunk, text: str) -> list[str]:
    return chunk.embed_text.removesuffix(text[chunk.start : chunk.end]).splitlines()


def test_a_chunk_has_the_headings_it_is_under_outermost_first() -> None:
    text = f"# Guide\n\n{_PROSE}\n\n## Install\n\n{_PROSE}\n\n### Linux\n\n{_PROSE}\n\n## Use\n\n{_PROSE}"
    chunks = cut(text)
    for chunk in chunks:
        above = text[: chunk.start]
        expected = ["Guide", "Install", "Linux"] if "Linux" in above else ["Guide", "Install"]
        if "## Use" in above:
            expected = ["Guide", "Use"]
        elif "## Install" not in above or text.startswith("## ", chunk.start):
            expected = ["Guide"]
        elif text.startswith("### ", chunk.start):
            expected = ["Guide", "Install"]
        assert context_of(chunk, text) == ["Title", *(expected if above else [])]
    assert {len(context_of(chunk, text)) for chunk in chunks} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "heading",
    ["# Head", "## Head ##", "Head\n====", "Head\n----", "====\nHead\n====", "Head\n~~~~~~", "====\r\n Head\r\n===="],
)
def test_markdown_and_restructuredtext_headings_are_recognised(heading: str) -> None:
    text = f"Before it.\n\n{heading}\n\nAfter it. And more."
    assert headings(text) == [[], [], ["Head"]]
    assert text[units_of(text)[1].start :].startswith(heading[:4])


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n# a comment\ny = 2",
        "x = 1\n\n# a comment\ny = 2",
        "# a comment\n# of two lines\nx = 1",
        ">>> f(1)\n# a comment\n>>> f(2)",
        "```\n\n# a comment\n\n```\nafter",
        "~~~ python\n\n# a comment\n\n~~~\nafter",
        "a | b\n--- | ---\n1 | 2",
        "key: value\n---\nmore text",
        "text\n\n-----\n\ntext",
        "#hashtag\n\ntext",
        "    # indented\n\ntext",
        "Long title over it\n---\n\ntext",
    ],
)
def test_what_only_looks_like_a_heading_is_none(text: str) -> None:
    assert not any(headings(text))


def test_restructuredtext_underlined_by_tildes_is_no_code() -> None:
    text = "One\n~~~~\n\nText of one. More.\n\nTwo\n~~~~\n\nText of two. More."
    assert headings(text) == [[], ["One"], [], ["Two"]]


def test_a_fence_that_nothing_closes_is_none() -> None:
    assert headings("```\n\n# Head\n\nText. Text.")[-1] == ["Head"]


def test_a_heading_stays_with_what_follows_it() -> None:
    text = "\n\n".join(f"## Head {n}\n\n{_PROSE[: 90 + n % 7 * 40]}" for n in range(40))
    for chunk in cut(text):
        assert not text[chunk.start : chunk.end].splitlines()[-1].startswith("##")


def test_cuts_are_made_before_headings_where_sections_fit() -> None:
    text = "\n\n".join(f"## Head {n}\n\n" + f"Words {n} of it. And {n * 7} more words. " * 3 for n in range(60))
    chunks = cut(text, None, 80)
    assert sum(text.startswith("##", chunk.start) for chunk in chunks) >= 0.9 * len(chunks)


def test_a_heading_that_repeats_the_title_is_not_put_twice() -> None:
    text = f"# The Title\n\n{_PROSE} {_PROSE}"
    assert {tuple(context_of(chunk, text)) for chunk in cut(text, "the title")} == {("the title",)}


def test_many_and_long_headings_leave_most_of_the_room_to_the_text() -> None:
    deep = "\n\n".join(f"{'#' * level} {'deep ' * 8}{level}" for level in range(1, 7))
    chunks = cut(f"{deep}\n\n{_PROSE} {_PROSE}")
    assert context_of(chunks[-1], "x")
    last = chunks[-1].embed_text.splitlines()
    assert last[-2].endswith("6")  # the nearest
    assert len(last) == 3
    long = cut(f"# {'long ' * 30}\n\n{_PROSE} {_PROSE}")
    assert 5 < long[-1].embed_text.count("long") < 16
    assert max(_TOKENIZER.counts([chunk.embed_text for chunk in chunks + long])) <= 64


def test_a_chunk_that_begins_in_a_table_has_its_header_row() -> None:
    text = (
        "# Rates\n\n| city | rate |\n|------|-----:|\n"
        + "".join(f"| town {n} | {n} |\n" for n in range(60))
        + "\nAfter."
    )
    chunks = cut(text)
    assert chunks[0].embed_text.startswith("Title\n# Rates\n\n| city | rate |\n|------|-----:|\n| town 0 | 0 |")
    for chunk in chunks[1:]:
        assert text.startswith("| town", chunk.start)
        assert context_of(chunk, text) == ["Title", "Rates", "| city | rate |"]


def test_text_after_a_table_has_no_header_row() -> None:
    text = "| city | rate |\n|---|---|\n| a | 1 |\n\n" + "\n\n".join([_PROSE] * 3)
    assert context_of(cut(text)[-1], text) == ["Title"]


def test_code_is_cut_between_definitions_before_lines() -> None:
    body = "".join(f"def name_{n}(a):\n    b = a + {n}\n    return b * {n}\n\n\n" for n in range(40))
    text = f"How it works:\n\n```python\n{body}```\n\nThat is all."
    chunks = cut(text)
    inside = [chunk for chunk in chunks[1:] if text.startswith("def", chunk.start)]
    assert len(inside) >= 0.9 * len(chunks[1:])
    assert not any(text[chunk.start : chunk.end].strip() == "```" for chunk in chunks)


def test_sentences_of_chinese_and_japanese_are_kept_whole() -> None:
    text = "".join(f"第{n}条规定了水车的用法，并说明了原因。これは第{n}の文です。" for n in range(80))
    chunks = Chunker(HashingTokenizer(), 24).chunk(text, None)
    assert len(chunks) > 3
    assert all(text[chunk.end - 1] == "。" for chunk in chunks)


def test_ranks_of_borders_follow_the_text() -> None:
    text = "One. Two\nthree.\n- item\n\nNext:\n\n    code\n\n# Head\n\nLast."
    ranks = {text[unit.start : unit.stop]: unit.rank for unit in units_of(text)}
    assert ranks == {
        "One.": Rank.PARAGRAPH,
        "Two": Rank.SENTENCE,
        "three.": Rank.LINE,
        "- item": Rank.SENTENCE,
        "Next:": Rank.PARAGRAPH,
        "code": Rank.BLOCK,
        "# Head\n\nLast.": Rank.HEADING,
    }
