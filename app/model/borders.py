"""Where a text may be cut: units that stay whole if they fit, and how much of a pause is before each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from app.model.cut import Span
from app.model.lines import Line, Role, lines_of

_ITEM = re.compile(r"[-*+•] |\d{1,3}[.)] |>>> |[:@]\w+|[|]")
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*[^\S\n]+|[。！？｡।۔][」』”’）]*[^\S\n]*")
_PART = re.compile(r"(?P<clause>[,;:]\s+|[，、；：]\s*|[;}](?=\S))|(?P<word>\s+|,(?=\S))")


class Rank(IntEnum):
    """Borders of a higher rank are cut first. A heading of level n has HEADING - n + 1."""

    TOKEN = 0
    WORD = 1
    CLAUSE = 2
    LINE = 3
    SENTENCE = 4  # also items of lists, rows of tables, and what stands at the margin of code
    BLOCK = 5  # a blank line, and yet what follows belongs to what is before
    PARAGRAPH = 6
    HEADING = 12


class Place(NamedTuple):
    """What a unit is under: the words of its headings, outermost first, and the header row of its table."""

    headings: tuple[Span, ...] = ()
    table: Span | None = None


class Unit(NamedTuple):
    """start, stop: its span without white space at the ends. rank: of the border before it. place: see Place."""

    start: int
    stop: int
    rank: int
    place: Place


def units_of(text: str) -> list[Unit]:
    """Sentences, or lines where there are none, with headings and table heads before what they belong to."""
    units: list[Unit] = []
    headings: list[tuple[int, Span]] = []  # (level, words), outermost first
    place, before = Place(), None
    for line in lines_of(text):
        rank = _rank(text, before, line)
        if line.role is Role.HEADING:
            while headings and headings[-1][0] >= line.level:
                headings.pop()
            place = Place(tuple(words for _, words in headings))
        elif place.table and line.role is not Role.TABLE_ROW:
            place = Place(place.headings)
        _add(units, text, line, rank, place)
        if line.role is Role.HEADING:
            headings.append((line.level, line.words))
            place = Place(tuple(words for _, words in headings))
        elif line.role is Role.TABLE_HEAD:
            place = Place(place.headings, line.words)
        before = line
    return units


def _add(units: list[Unit], text: str, line: Line, rank: int | None, place: Place) -> None:
    """Append the sentences of a line. rank: None joins the first to the unit before."""
    for start, stop in _sentences(text, line) if line.role is Role.TEXT else ((line.start, line.stop),):
        if rank is None and units:
            units[-1] = units[-1]._replace(stop=stop)
        else:
            units.append(Unit(start, stop, Rank.SENTENCE if rank is None else rank, place))
        rank = Rank.SENTENCE


def _sentences(text: str, line: Line) -> Iterator[Span]:
    start = line.start
    for match in _SENTENCE.finditer(text, line.start, line.stop):
        if match.end() < line.stop:
            yield start, match.end() - len(match[0]) + len(match[0].rstrip())
            start = match.end()
    yield start, line.stop


def parts_of(text: str, unit: Unit) -> list[Unit]:
    """A unit that is too long, cut into its words: the finest borders that need no tokenizer."""
    parts: list[Unit] = []
    start, rank = unit.start, unit.rank
    for match in _PART.finditer(text, unit.start, unit.stop):
        if match.end() < unit.stop:
            parts.append(Unit(start, match.start() + len(match[0].rstrip()), rank, unit.place))
            start, rank = match.end(), Rank.CLAUSE if match["clause"] else Rank.WORD
    parts.append(Unit(start, unit.stop, rank, unit.place))
    return parts


def _rank(text: str, before: Line | None, line: Line) -> int | None:
    """Of the border between two lines. None: there is none, the two belong together."""
    if before is None:
        return Rank.PARAGRAPH
    if line.role is Role.HEADING:
        is_first_of_section = before.role is Role.HEADING and line.level > before.level
        return None if is_first_of_section else Rank.HEADING + 1 - line.level
    if before.role in (Role.HEADING, Role.TABLE_HEAD):
        return None if before.role is Role.HEADING or line.role is Role.TABLE_ROW else Rank.PARAGRAPH
    if Role.CODE in (before.role, line.role):
        return _rank_in_code(text, before, line)
    leads_on = text[before.stop - 1] == ":"
    if line.apart:
        return Rank.BLOCK if leads_on or line.indent > before.indent else Rank.PARAGRAPH
    if line.role is not before.role:
        return Rank.SENTENCE if leads_on else Rank.BLOCK
    if line.indent < before.indent or line.role is Role.TABLE_ROW or _ITEM.match(text, line.start):
        return Rank.SENTENCE
    return Rank.SENTENCE if _ends_sentence(text, before) else Rank.LINE


def _rank_in_code(text: str, before: Line, line: Line) -> int | None:
    """Between fences: blank lines and what is at the margin. The fences themselves stay with the code."""
    if Role.FENCE in (before.role, line.role):
        return None
    at_margin = line.indent == 0 and text[line.start] not in ")]}"
    if line.apart:
        return Rank.BLOCK if at_margin else Rank.SENTENCE
    return Rank.SENTENCE if at_margin else Rank.LINE


def _ends_sentence(text: str, line: Line) -> bool:
    """Whether the last few characters of the line do."""
    tail = text[max(line.start, line.stop - 4) : line.stop].rstrip("\"'”’)]」』）")
    return tail[-1:] in ".!?…。！？｡।۔:;" if tail else False
