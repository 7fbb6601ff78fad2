"""The lines of a text and what they are: prose, headings, rows of tables, code between fences.

Markdown: ATX and setext headings, fences, tables (CommonMark 0.31 and GitHub's tables). reStructuredText: underlined
headings. What only looks like them is common (comments in code), so headings must stand apart from other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from app.model.cut import Span

_HEADING_MAX_CODE_POINTS = 200
_LOWEST_LEVEL = 6
_PARAGRAPH_ENDS = "\u2029\f"
_UNDERLINES = frozenset("=-~^\"'*+#`")
_HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*?)(?:[ \t]+#+)?")
_FENCE = re.compile(r"(`{3,}|~{3,})([^`]*)")


class Role(Enum):
    """What a line is. HEADING: with its underline. TABLE_HEAD: header and delimiter row. FENCE: around CODE."""

    TEXT = 0
    HEADING = 1
    TABLE_HEAD = 2
    TABLE_ROW = 3
    FENCE = 4
    CODE = 5


@dataclass(slots=True)
class Line:
    """A line that is not blank, or several that are one thing.

    start, stop: its span without white space at the ends. indent: code points before it. apart: whether a blank line
    is before it, or nothing. level: of a heading, from 1, the outermost. words: of a heading or a table's head,
    the span to be repeated elsewhere.
    """

    start: int
    stop: int
    indent: int
    apart: bool
    role: Role = Role.TEXT
    level: int = 0
    words: Span = (0, 0)


def lines_of(text: str) -> list[Line]:
    """The lines of a text, in order. Linear in the text."""
    bare = list(_bare_lines(text))
    _mark_fences(text, bare)
    marked: list[Line] = []
    styles: dict[tuple[str, bool], int] = {}
    at = 0
    while at < len(bare):
        if bare[at].role is Role.TEXT:
            at += _mark(text, bare, at, marked, styles)
        else:
            marked.append(bare[at])
            at += 1
    return marked


def _bare_lines(text: str) -> Iterator[Line]:
    position, apart = 0, True
    for line in text.splitlines(keepends=True):
        content = line.strip()
        if content:
            indent = len(line) - len(line.lstrip())
            start = position + indent
            yield Line(start, start + len(content), indent, apart)
            apart = line[-1] in _PARAGRAPH_ENDS
        else:
            apart = True
        position += len(line)


def _mark_fences(text: str, lines: Sequence[Line]) -> None:
    """A fence that nothing closes is none: else one edit would make code of all that follows."""
    fences = [
        (at, found[1], found[2].strip())
        for at, line in enumerate(lines)
        if text[line.start] in "`~"
        and (found := _FENCE.fullmatch(text, line.start, line.stop))
        and not (at and _is_long_underline(text, lines[at - 1], line))
    ]
    unclosed = {"`": 1 << 60, "~": 1 << 60}  # fences of so many characters and more have none to close them
    done = -1
    for place, (opens, mark, _) in enumerate(fences):
        if opens <= done or len(mark) >= unclosed[mark[0]]:
            continue
        closes = _closing(fences, place)
        if closes is None:
            unclosed[mark[0]] = len(mark)
            continue
        for line in lines[opens + 1 : closes]:
            line.role = Role.CODE
        lines[opens].role = lines[closes].role = Role.FENCE
        done = closes


def _closing(fences: Sequence[tuple[int, str, str]], place: int) -> int | None:
    """The line of the next fence that closes this one: as long or longer, of the same mark, with nothing behind."""
    mark = fences[place][1]
    for other in range(place + 1, len(fences)):
        at, end, info = fences[other]
        if not info and end.startswith(mark):
            return at
    return None


def _is_long_underline(text: str, title: Line, line: Line) -> bool:
    """reStructuredText underlines titles with fences, too."""
    length = line.stop - line.start
    apart = title.apart and not line.apart
    return (
        apart
        and 3 < length >= title.stop - title.start
        and _underline(text, line) is not None
        and _may_be_title(text, title)
    )


def _mark(text: str, lines: Sequence[Line], at: int, marked: list[Line], styles: dict[tuple[str, bool], int]) -> int:
    """Append what begins at a line of text; returns how many lines it took. styles: level of underlines seen."""
    line = lines[at]
    below = lines[at + 1] if at + 1 < len(lines) and not lines[at + 1].apart else None
    if line.apart or (marked and marked[-1].role is Role.HEADING):
        if taken := _mark_underlined(text, lines[at : at + 3], styles):
            marked.append(line)
            return taken
        _mark_heading(text, line, below, first=at == 0)
    marked.append(line)
    if below and line.role is Role.TEXT and "|" in text[line.start : line.stop] and _is_delimiter_row(text, below):
        line.role, line.words, line.stop = Role.TABLE_HEAD, (line.start, line.stop), below.stop
        rows = _mark_rows(text, lines, at + 2)
        marked.extend(rows)
        return 2 + len(rows)
    return 1


def _mark_heading(text: str, line: Line, below: Line | None, first: bool) -> None:
    """Markdown's `# heading`. A comment looks the same: `#` stands alone, or first, and never in a block of them."""
    found = _HEADING.fullmatch(text, line.start, min(line.stop, line.start + _HEADING_MAX_CODE_POINTS))
    if not found or line.indent > 3 or found.end() < line.stop:
        return
    mark = found[1]
    leads_to_lower = below is not None and text.startswith(mark + "#", below.start)
    if below and not leads_to_lower and (text.startswith(mark, below.start) or (mark == "#" and not first)):
        return
    line.role, line.level, line.words = Role.HEADING, len(mark), found.span(2)


def _mark_underlined(text: str, lines: Sequence[Line], styles: dict[tuple[str, bool], int]) -> int:
    """A title with a line of punctuation below, or above and below; returns how many lines that are, else 0.

    As in reStructuredText levels are in the order in which the styles first come. Markdown has the two `=` and `-`.
    """
    overlined = _underline(text, lines[0]) is not None
    part = lines[: 2 + overlined]
    if len(part) < 2 + overlined or any(line.apart for line in part[1:]):
        return 0
    title, below = part[-2:]
    mark = _underline(text, below)
    if mark is None or not _may_be_title(text, title) or (not overlined and title.indent != below.indent):
        return 0
    if overlined and text[part[0].start : part[0].stop] != text[below.start : below.stop]:
        return 0
    if mark != "=" and below.stop - below.start < title.stop - title.start:
        return 0
    first = lines[0]
    first.role, first.words, first.stop = Role.HEADING, (title.start, title.stop), below.stop
    first.level = min(styles.setdefault((mark, overlined), len(styles) + 1), _LOWEST_LEVEL)
    return len(part)


def _underline(text: str, line: Line) -> str | None:
    """The mark that the line repeats, at least three times."""
    mark, length = text[line.start], line.stop - line.start
    if mark not in _UNDERLINES or length < 3 or text[line.stop - 1] != mark:
        return None
    return mark if text[line.start : line.stop] == mark * length else None


def _may_be_title(text: str, line: Line) -> bool:
    words = text[line.start : line.stop]
    return (
        line.role is Role.TEXT
        and len(words) <= _HEADING_MAX_CODE_POINTS
        and any(map(str.isalnum, words))
        and not words.startswith((">>>", "- ", "* "))
    )


def _is_delimiter_row(text: str, line: Line) -> bool:
    row = text[line.start : line.stop]
    return line.role is Role.TEXT and "-" in row and "|" in row and not row.strip("|:- \t")


def _mark_rows(text: str, lines: Sequence[Line], at: int) -> list[Line]:
    rows = []
    while at < len(lines) and not lines[at].apart and lines[at].role is Role.TEXT:
        if text.find("|", lines[at].start, lines[at].stop) < 0:
            break
        lines[at].role = Role.TABLE_ROW
        rows.append(lines[at])
        at += 1
    return rows
