"""What goes between the title of a document and the text of a chunk, and how many tokens that is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from app.model.borders import Place
from app.model.cut import Span
from app.model.meter import Meter


class Contexts:
    """The lines that are repeated for the places of one document.

    Headings: the nearest, then those around it from the inside out, as long as they fit `max_tokens` together; the
    nearest is cut to that, if it is longer. The same number again is for the header row of a table.
    """

    def __init__(self, text: str, title: str, places: Iterable[Place], meter: Meter, max_tokens: int) -> None:
        self._text = text
        self._title = title.casefold()
        self._meter = meter
        self._max_tokens = max_tokens
        distinct = dict.fromkeys(places)
        lines = dict.fromkeys(chain.from_iterable(_lines(place) for place in distinct))
        counts = meter.tokens([text[start:end] for start, end in lines])
        self._tokens = {line: count + 1 for line, count in zip(lines, counts, strict=True)}  # with a newline
        self._found = {place: self._find(place) for place in distinct}

    def lines(self, place: Place) -> tuple[Span, ...]:
        """Spans of the lines, in the order in which they are put."""
        return self._found[place][0]

    def tokens(self, place: Place) -> int:
        """How many tokens they are, at most."""
        return self._found[place][1]

    def _find(self, place: Place) -> tuple[tuple[Span, ...], int]:
        headings, tokens = self._headings(place)
        if place.table is None:
            return headings, tokens
        table, table_tokens = self._limited(place.table)
        return (*headings, *table), tokens + table_tokens

    def _headings(self, place: Place) -> tuple[tuple[Span, ...], int]:
        lines: tuple[Span, ...] = ()
        tokens = 0
        for line in reversed(place.headings):
            if self._text[slice(*line)].casefold() == self._title:
                continue
            if not lines:
                lines, tokens = self._limited(line)
            elif tokens + self._tokens[line] <= self._max_tokens:
                lines, tokens = (line, *lines), tokens + self._tokens[line]
            else:
                break
        return lines, tokens

    def _limited(self, line: Span) -> tuple[tuple[Span, ...], int]:
        """The line, or as much of its beginning as fits."""
        if self._tokens[line] <= self._max_tokens:
            return (line,), self._tokens[line]
        words, tokens = self._meter.limited(self._text[slice(*line)], self._max_tokens - 1)
        return ((line[0], line[0] + len(words)),) if words else (), tokens


def _lines(place: Place) -> tuple[Span, ...]:
    return place.headings if place.table is None else (*place.headings, place.table)
