"""Metadata in memory, a column per field and kind of value: what a filter lets through costs microseconds, not a query.

A row's metadata never changes (an update has new rows), so columns are only ever added to, and a query reads them
beside the writer. Measured at 100,000 rows and half of them allowed: 0.2 ms, against 15 ms for asking SQLite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import eq, ge, gt, le, lt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.filters import AllOf, AnyOf, Compare, Exists, Filter, Not, OneOf, Scalar

_FIRST = 64
_INT64 = np.iinfo(np.int64)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {">": gt, ">=": ge, "<": lt, "<=": le}
_TEXT_BYTES = 120  # of a distinct text in a dictionary, besides its characters

Mask = NDArray[np.bool_]


class Column:
    """(row, value) pairs of one field and one kind of value, rows ascending; only ever added to.

    A reader takes `pairs`, one tuple, so that rows and values fit together whatever the writer does meanwhile.
    """

    def __init__(self, dtype: Any) -> None:
        self._rows = np.empty(_FIRST, np.int32)
        self._values = np.empty(_FIRST, dtype)
        self.pairs: tuple[NDArray[np.int32], NDArray[Any]] = (self._rows[:0], self._values[:0])

    def extend(self, rows: Sequence[int] | NDArray[np.int32], values: Sequence[Any] | NDArray[Any]) -> None:
        """Add pairs; a reader sees all of them or none."""
        start = len(self.pairs[0])
        end = start + len(rows)
        if end > len(self._rows):
            capacity = max(2 * len(self._rows), end)
            bigger_rows, bigger_values = np.empty(capacity, np.int32), np.empty(capacity, self._values.dtype)
            bigger_rows[:start], bigger_values[:start] = self.pairs
            self._rows, self._values = bigger_rows, bigger_values
        self._rows[start:end] = rows
        self._values[start:end] = values
        self.pairs = (self._rows[:end], self._values[:end])

    @property
    def memory_bytes(self) -> int:
        """Of the pairs."""
        return self._rows.nbytes + self._values.nbytes


class TextColumn(Column):
    """Texts as codes of a dictionary, which is only ever added to."""

    def __init__(self) -> None:
        super().__init__(np.int32)
        self.codes: dict[str, int] = {}

    def extend_texts(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Add pairs."""
        codes = self.codes
        self.extend(rows, [codes.setdefault(text, len(codes)) for text in texts])

    @property
    def memory_bytes(self) -> int:
        """Of the pairs and the dictionary."""
        return super().memory_bytes + sum(_TEXT_BYTES + len(text) for text in tuple(self.codes))


class Columns:
    """The metadata of all rows of an index. One thread adds; any thread reads."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], Column] = {}  # (field, kind): what holds its values

    @property
    def names(self) -> set[str]:
        """The fields that at least one row had since the index was last rebuilt."""
        return {name for name, _ in tuple(self._columns)}

    @property
    def memory_bytes(self) -> int:
        """An estimate."""
        return sum(column.memory_bytes for column in tuple(self._columns.values()))

    def add(self, rows: Sequence[int], metadata: Sequence[dict[str, Any]]) -> None:
        """Add the metadata of new rows, ascending and above all given before."""
        pairs: dict[tuple[str, str], tuple[list[int], list[Any]]] = {}
        for row, fields in zip(rows, metadata, strict=True):
            for name, value in fields.items():
                for item in _items(value):
                    at, values = pairs.setdefault((name, kind_of(item)), ([], []))
                    at.append(row)
                    values.append(item)
        for (name, kind), (at, values) in pairs.items():
            column = self._column(name, kind)
            if isinstance(column, TextColumn):
                column.extend_texts(at, values)
            else:
                column.extend(at, values)

    def mask(self, parsed: Filter, end: int) -> Mask:
        """Which rows below `end` match; shape (end,). Says nothing about whether they are alive."""
        match parsed:
            case OneOf(name, values):
                mask = np.zeros(end, np.bool_)
                for value in values:
                    self._equal(name, value, mask)
                return mask
            case Compare(name, operator, bound):
                mask = np.zeros(end, np.bool_)
                self._compare(name, operator, bound, mask)
                return mask
            case Exists(name):
                mask = np.zeros(end, np.bool_)
                for kind in ("text", "int", "float", "bool"):
                    self._mark(name, kind, lambda values: np.ones(len(values), np.bool_), mask)
                return mask
            case Not(inner):
                return ~self.mask(inner, end)
            case AllOf(inner):
                return _joined((self.mask(item, end) for item in inner), np.logical_and, np.ones(end, np.bool_))
            case AnyOf(inner):
                return _joined((self.mask(item, end) for item in inner), np.logical_or, np.zeros(end, np.bool_))

    def kept(self, new_rows: NDArray[np.int32]) -> Columns:
        """A copy with other row numbers. new_rows: by present row, ascending; -1 for rows that are left out."""
        copy = Columns()
        for (name, kind), column in tuple(self._columns.items()):
            rows, values = column.pairs
            known = rows < len(new_rows)
            rows, values = new_rows[rows[known]], values[known]
            kept = rows >= 0
            if not kept.any():
                continue
            if isinstance(column, TextColumn):
                texts = list(column.codes)
                copy._text(name).extend_texts(rows[kept].tolist(), [texts[code] for code in values[kept].tolist()])
            else:
                copy._column(name, kind).extend(rows[kept], values[kept])
        return copy

    def added(self, other: Columns, first: int, new_rows: NDArray[np.int32]) -> None:
        """Take over rows of `other` from `first` on. new_rows: by `row - first`; -1 for rows that are left out."""
        shifted = np.full(first + len(new_rows), -1, np.int32)
        shifted[first:] = new_rows
        for (name, kind), column in other.kept(shifted)._columns.items():
            rows, values = column.pairs
            if isinstance(column, TextColumn):
                texts = list(column.codes)
                self._text(name).extend_texts(rows.tolist(), [texts[code] for code in values.tolist()])
            else:
                self._column(name, kind).extend(rows, values)

    def _column(self, name: str, kind: str) -> Column:
        column = self._columns.get((name, kind))
        if column is None:
            column = TextColumn() if kind == "text" else Column(_DTYPES[kind])
            self._columns[name, kind] = column
        return column

    def _text(self, name: str) -> TextColumn:
        column = self._column(name, "text")
        assert isinstance(column, TextColumn)
        return column

    def _mark(self, name: str, kind: str, holds: Callable[[NDArray[Any]], Mask], mask: Mask) -> None:
        """Set the mask for rows with a value for which `holds`."""
        column = self._columns.get((name, kind))
        if column is None:
            return
        rows, values = column.pairs
        known = int(np.searchsorted(rows, len(mask)))
        mask[rows[:known][holds(values[:known])]] = True

    def _equal(self, name: str, value: Scalar, mask: Mask) -> None:
        if isinstance(value, bool):
            self._mark(name, "bool", lambda values: values == value, mask)
        elif isinstance(value, str):
            column = self._columns.get((name, "text"))
            code = column.codes.get(value, -1) if isinstance(column, TextColumn) else -1
            self._mark(name, "text", lambda codes: codes == code, mask)
        else:
            for kind, equal in (("int", _as_int(value)), ("float", _to_float(value))):
                if equal == value:  # else no number of that kind is
                    self._mark(name, kind, _test(eq, equal), mask)

    def _compare(self, name: str, operator: str, bound: str | int | float, mask: Mask) -> None:
        if not isinstance(bound, str):
            self._compare_numbers(name, operator, bound, mask)
            return
        column = self._columns.get((name, "text"))
        if isinstance(column, TextColumn):
            # as many steps as there are distinct texts; numpy compares objects no faster
            fits = np.fromiter((_COMPARE[operator](text, bound) for text in tuple(column.codes)), np.bool_)
            self._mark(name, "text", lambda codes: fits[codes], mask)

    def _compare_numbers(self, name: str, operator: str, bound: int | float, mask: Mask) -> None:
        for kind in ("int", "float"):
            own_operator, own_bound = _exact(kind, operator, bound)
            self._mark(name, kind, _test(_COMPARE[own_operator], own_bound), mask)


def kind_of(value: Scalar) -> str:
    """Which kind of column holds a value: booleans are no numbers."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "text"
    return "int" if isinstance(value, int) and _INT64.min <= value <= _INT64.max else "float"


def matches(parsed: Filter, metadata: dict[str, Any]) -> bool:
    """What `Columns.mask` asks of all rows, asked of one."""
    match parsed:
        case OneOf(name, values):
            return any(
                isinstance(a, bool) == isinstance(b, bool) and a == b for a in _of(metadata, name) for b in values
            )
        case Compare(name, operator, bound):
            comparable = [a for a in _of(metadata, name) if _is_like(a, bound)]
            return any(_COMPARE[operator](value, bound) for value in comparable)
        case Exists(name):
            return bool(_of(metadata, name))
        case Not(inner):
            return not matches(inner, metadata)
        case AllOf(inner):
            return all(matches(item, metadata) for item in inner)
        case AnyOf(inner):
            return any(matches(item, metadata) for item in inner)


_DTYPES: dict[str, Any] = {"int": np.int64, "float": np.float64, "bool": np.bool_}


def _of(metadata: dict[str, Any], name: str) -> list[Scalar]:
    return list(_items(metadata.get(name)))


def _items(value: Any) -> Iterator[Scalar]:
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, (str, int, float)):  # null is no value, and nothing asks for what is nested
            yield item


def _is_like(value: Scalar, bound: str | int | float) -> bool:
    return isinstance(value, str) == isinstance(bound, str) and not isinstance(value, bool)


def _joined(masks: Iterator[Mask], join: np.ufunc, start: Mask) -> Mask:
    for mask in masks:
        join(start, mask, out=start)
    return start


def _exact(kind: str, operator: str, bound: int | float) -> tuple[str, int | float]:
    """The same test with a bound of the column's own kind, so that numpy compares without rounding."""
    if kind == "int":
        if isinstance(bound, int):
            return operator, bound
        return operator, math.floor(bound) if operator in (">", "<=") else math.ceil(bound)
    rounded = _to_float(bound)
    if rounded > bound:  # no float lies between the two
        return {">": ">=", "<=": "<"}.get(operator, operator), rounded
    if rounded < bound:
        return {"<": "<=", ">=": ">"}.get(operator, operator), rounded
    return operator, rounded


def _test(compare: Callable[[Any, Any], Any], bound: int | float | None) -> Callable[[NDArray[Any]], Mask]:
    return lambda values: np.asarray(compare(values, bound), np.bool_)


def _as_int(number: int | float) -> int | None:
    """The same number as an integer of 64 bits; None if it is none."""
    whole = int(number) if isinstance(number, int) or (math.isfinite(number) and number.is_integer()) else None
    return whole if whole is not None and _INT64.min <= whole <= _INT64.max else None


def _to_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
