"""The text of an HTML page, as a reader would see it, with the standard library's parser."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

_HIDDEN = frozenset({"script", "style", "template", "noscript"})
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_PARAGRAPHS = _HEADINGS | {
    *("address", "article", "aside", "blockquote", "body", "dd", "div", "dl", "dt", "figcaption", "figure", "footer"),
    *("form", "header", "hr", "main", "nav", "ol", "p", "pre", "section", "table", "ul"),
}
_LINES = frozenset({"br", "li", "tr", "option", "caption"})
_CELLS = frozenset({"td", "th"})


def html_text(markup: str) -> tuple[str, str | None]:
    """The visible text, a blank line between paragraphs, and the title: <title>, else the first heading, else None.

    Never fails on broken markup: what the parser gives up on is taken as text.
    """
    page = _Page()
    tags, end, rest = markup.rpartition(">")  # a tag that is never closed costs html.parser quadratic time
    try:
        page.feed(tags + end)
        page.close()
    except AssertionError:  # how html.parser gives up on an unknown <![…
        page.handle_data(page.rawdata)
    page.handle_data(unescape(rest))
    return _tidy("".join(page.text)), _one_line(page.title) or _one_line(page.heading)


class _Page(HTMLParser):
    """Collects text, the first <title> and the first heading."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.title: list[str] = []
        self.heading: list[str] = []
        self._hidden = 0
        self._pre = 0
        self._title = False
        self._titles = 0
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag == "title":
            self._title, self._titles = True, self._titles + 1
        elif tag in _HEADINGS:
            self._heading = not self.heading
        self._pre += tag == "pre"
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag == "title":
            self._title = False
        elif tag in _HEADINGS:
            self._heading = False
        self._pre = max(0, self._pre - (tag == "pre"))
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._title:
            if self._titles == 1:  # a later one belongs to a drawing
                self.title.append(data)
            return
        if self._heading:
            self.heading.append(data)
        self.text.append(data if self._pre else re.sub(r"[ \t\r\n\f]+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self.text.append("\n\n")
        elif tag in _LINES:
            self.text.append("\n")
        elif tag in _CELLS:
            self.text.append(" ")


def _one_line(parts: list[str]) -> str | None:
    return " ".join("".join(parts).split()) or None


def _tidy(text: str) -> str:
    lines = (line.strip(" \t\r\f") for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
