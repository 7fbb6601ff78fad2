"""What every source yields, and how a row of named values becomes a document change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

from schemas.document_change import DocumentChange, parse_change
from schemas.errors import InvalidChange

# One line, cell or file beyond this is not read into memory: 16 times the default largest text.
MAX_ITEM_BYTES = 64 * 2**20
DEFAULT_TITLE = "title"
_INT64_DIGITS = 19

Advance = Callable[[int], None]  # a source calls it with the number of bytes it has read on


def skip_line(file: BinaryIO, advance: Advance) -> None:
    """Read on to the end of a line that is too long."""
    while part := file.readline(MAX_ITEM_BYTES):
        advance(len(part))
        if part.endswith(b"\n"):
            return


@dataclass(frozen=True, slots=True)
class Change:
    """A change and where it was read, `file.jsonl:17`."""

    change: DocumentChange
    where: str


@dataclass(frozen=True, slots=True)
class BadInput:
    """Something that is no change: where, and one sentence why. What follows it can still be read."""

    where: str
    reason: str


Item = Change | BadInput


@dataclass(frozen=True, slots=True)
class Fields:
    """Which field of a JSON line, or column of a table, is what. All others become metadata.

    title: used where it exists. metadata: only these (None: all others). numbers: CSV columns of numbers; the
    others stay text, as "01234" may be a postal code. delete: rows are documents to delete.
    """

    id: str = "id"
    text: str = "text"
    title: str = DEFAULT_TITLE
    op: str | None = None
    version: str | None = None
    event_time: str | None = None
    metadata: tuple[str, ...] | None = None
    numbers: frozenset[str] = frozenset()
    delete: bool = False

    def roles(self) -> set[str]:
        """The names that are not metadata unless asked for."""
        return {name for name in (self.id, self.text, self.title, self.op, self.version, self.event_time) if name}

    def wanted(self, columns: Iterable[str]) -> list[str]:
        """Those columns that are needed at all, in their order."""
        chosen = self.metadata
        return [name for name in columns if name in self.roles() or chosen is None or name in chosen]

    def missing(self, columns: Iterable[str]) -> list[str]:
        """Names that a table must have and has not. The title is optional, text is too where rows are deletes."""
        needed = [self.id, *([] if self.delete else [self.text]), *(self.metadata or ()), *sorted(self.numbers)]
        needed += [name for name in (self.op, self.version, self.event_time) if name]
        needed += [self.title] if self.title != DEFAULT_TITLE else []
        present = set(columns)
        return [name for name in needed if name not in present]

    def change(self, row: Mapping[str, Any]) -> DocumentChange:
        """The change that a row means; None is an absent value. Raises InvalidChange."""
        if row.get(self.id) is None:
            raise InvalidChange(f"no id: {self.id!r} is absent or empty")
        fields: dict[str, Any] = {"id": _as_id(row[self.id]), "op": self._operation(row)}
        if self.version is not None:
            fields["version"] = _as_version(row.get(self.version))
        if self.event_time is not None:
            fields["event_time"] = _as_event_time(row.get(self.event_time))
        if fields["op"] == "delete":
            return parse_change(fields)
        if row.get(self.text) is None:
            raise InvalidChange(f"no text: {self.text!r} is absent")
        fields |= {"text": row[self.text], "title": row.get(self.title), "metadata": self._metadata(row)}
        return parse_change(fields)

    def _operation(self, row: Mapping[str, Any]) -> str:
        if self.delete:
            return "delete"
        value = row.get(self.op) if self.op is not None else None
        return "upsert" if value is None else str(value).lower()

    def _metadata(self, row: Mapping[str, Any]) -> dict[str, Any]:
        names = self.metadata if self.metadata is not None else [name for name in row if name not in self.roles()]
        values = {name: row.get(name) for name in names}
        return {
            name: _as_number(name, value) if name in self.numbers else _as_metadata(value)
            for name, value in values.items()
            if value is not None
        }


def _as_id(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_version(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise InvalidChange(f"version: {value[:40]!r} is not an integer") from None


def _as_event_time(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    is_number = isinstance(value, str) and value.isascii() and value.isdigit()
    return int(value) if is_number and len(value) <= _INT64_DIGITS else value


def _as_number(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return _as_metadata(value)
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        raise InvalidChange(f"{name}: {value[:40]!r} is not a number") from None
    if not math.isfinite(number):
        raise InvalidChange(f"{name}: {value[:40]!r} is not a finite number")
    return number


def _as_metadata(value: Any) -> Any:
    """Values of Parquet that JSON has not: times as ISO 8601, decimals as floats, NaN as absent."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return None if isinstance(value, float) and math.isnan(value) else value
