"""How large the units of a text are, and smaller units where one is too large for a chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np

from app.model.borders import Place, Rank, Unit, parts_of
from app.model.meter import Meter
from app.model.priorities import priorities
from app.model.segments import Layout

_STEPS_PER_ROOM = 4  # where there are no borders at all

Sized = tuple[Unit, int]  # a unit and its tokens
RoomOf = Callable[[Place], int]
Finer = Callable[[str, Unit, int, int], Iterable[Sized]]


class Sizer:
    """Sizes are code points, of which a token counts as `code_points_per_token` or as many as it has, if more.

    So one number bounds both the tokens and the code points of a chunk.
    """

    def __init__(self, meter: Meter, code_points_per_token: int) -> None:
        self._meter = meter
        self._per_token = code_points_per_token

    def layout(self, text: str, units: Sequence[Unit], room_of: RoomOf) -> tuple[list[Unit], Layout]:
        """The units, cut into words, tokens and code points where they are larger than the room of their place."""
        sized = self._counted(text, units)
        for finer in (self._words, self._tokens, self._steps):
            sized = [part for each in sized for part in self._finer(text, each, room_of(each[0].place), finer)]
        return [unit for unit, _ in sized], self._laid_out(text, sized, room_of)

    def _finer(self, text: str, sized: Sized, room: int, cut: Finer) -> Iterable[Sized]:
        return (sized,) if self._size(*sized) <= room else cut(text, *sized, room)

    def _size(self, unit: Unit, tokens: int) -> int:
        return max(tokens * self._per_token, unit.stop - unit.start)

    def _laid_out(self, text: str, sized: Sequence[Sized], room_of: RoomOf) -> Layout:
        units = [unit for unit, _ in sized]
        borders = np.array([unit.start for unit in units], np.int64)
        tokens = np.array([tokens for _, tokens in sized], np.int64)
        with_space = np.maximum(tokens[:-1] * self._per_token, np.diff(borders))
        return Layout(
            starts=np.concatenate(([0], np.cumsum(with_space, dtype=np.int64))),
            sizes=np.array([self._size(*each) for each in sized], np.int64),
            rooms=np.array([room_of(unit.place) for unit in units], np.int64),
            priorities=priorities(text, borders, [unit.rank for unit in units]),
        )

    def _counted(self, text: str, units: Sequence[Unit]) -> list[Sized]:
        """With the white space after each, which is tokens to some models."""
        ends = [*(unit.start for unit in units[1:]), units[-1].stop]
        tokens = self._meter.tokens([text[unit.start : end] for unit, end in zip(units, ends, strict=True)])
        return list(zip(units, tokens, strict=True))

    def _words(self, text: str, unit: Unit, _tokens: int, _room: int) -> Iterable[Sized]:
        return self._counted(text, parts_of(text, unit))

    def _tokens(self, text: str, unit: Unit, _tokens: int, _room: int) -> Iterable[Sized]:
        begins = Counter(start for start, _ in self._meter.spans(text[unit.start : unit.stop]))
        starts = [0, *filter(None, begins)]
        for start, end in pairwise((*starts, unit.stop - unit.start)):
            rank = Rank.TOKEN if start else unit.rank
            yield Unit(unit.start + start, unit.start + end, rank, unit.place), begins[start]

    def _steps(self, _text: str, unit: Unit, tokens: int, room: int) -> Iterable[Sized]:
        """Of a token that is longer than a chunk: a word that the model does not know, wherever it is cut."""
        length = max(room // _STEPS_PER_ROOM, 1)
        for start in range(unit.start, unit.stop, length):
            rank = unit.rank if start == unit.start else Rank.TOKEN
            yield Unit(start, min(start + length, unit.stop), rank, unit.place), min(tokens, length)
