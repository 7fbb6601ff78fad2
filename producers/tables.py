"""CSV and Parquet: a row is a document; flags name the columns, all others become metadata."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from producers.changes import MAX_ITEM_BYTES, Advance, BadInput, Change, Fields, Item, skip_line
from schemas.errors import Fatal, InvalidChange

_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 256  # rows of Parquet in memory as Python objects: 256 texts of 1 MB are enough


class _Lines:
    """The lines of a CSV file as text. `undecodable`: whether one since the last look was not UTF-8."""

    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file, self._advance = file, advance
        self._first = True
        self.undecodable = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Raises csv.Error where a line is too long to be read into memory; the next one can be."""
        line = self._file.readline(MAX_ITEM_BYTES)
        if not line:
            raise StopIteration
        self._advance(len(line))
        if len(line) == MAX_ITEM_BYTES and not line.endswith(b"\n"):
            skip_line(self._file, self._advance)
            raise csv.Error(f"the line is longer than {MAX_ITEM_BYTES} bytes")
        content = line.removeprefix(_BOM) if self._first else line
        self._first = False
        try:
            return content.decode()
        except UnicodeDecodeError:
            self.undecodable = True
            return content.decode(errors="replace")


def check_csv(path: Path, fields: Fields, delimiter: str) -> None:
    """Raises Fatal if the header is missing or lacks a column: before anything is published."""
    with path.open("rb") as file:
        lines = _Lines(file, lambda _: None)
        _csv_header(csv.reader(lines, delimiter=delimiter, strict=True), lines, str(path), fields)


def read_csv(file: BinaryIO, name: str, fields: Fields, delimiter: str, advance: Advance) -> Iterator[Item]:
    """The changes of a CSV file (RFC 4180, UTF-8, with a header). `where` is the line on which a row starts."""
    csv.field_size_limit(MAX_ITEM_BYTES)  # of the whole process; its default, 128 KiB, is less than a document
    lines = _Lines(file, advance)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns = _csv_header(reader, lines, name, fields)
    while True:
        where = f"{name}:{reader.line_num + 1}"
        lines.undecodable = False
        try:
            cells = next(reader)
            if lines.undecodable:
                raise InvalidChange("the row is not UTF-8")
            if not cells:
                continue
            if len(cells) != len(columns):
                raise InvalidChange(f"the row has {len(cells)} columns, the header {len(columns)}")
            yield Change(fields.change(_row(columns, cells, fields.text)), where)
        except StopIteration:
            return
        except InvalidChange as error:
            yield BadInput(where, error.reason)
        except csv.Error as error:
            yield BadInput(where, f"not CSV: {error}")


def _csv_header(reader: Iterator[list[str]], lines: _Lines, name: str, fields: Fields) -> list[str]:
    try:
        columns = next(reader, [])
    except csv.Error as error:
        raise Fatal(f"{name} has no CSV header in its first line: {error}") from error
    if lines.undecodable:
        raise Fatal(f"{name} is not UTF-8 in its first line: convert it, for example with iconv")
    if not columns:
        raise Fatal(f"{name} is empty: CSV needs a header line with the names of the columns")
    if len(set(columns)) < len(columns):
        raise Fatal(f"{name} has two columns of one name: {', '.join(columns)}")
    _check_columns(name, columns, fields)
    return columns


def _row(columns: list[str], cells: list[str], text: str) -> dict[str, Any]:
    """CSV cannot say null: an empty cell is an absent value, but for the text, which may be empty."""
    return {name: cell if cell or name == text else None for name, cell in zip(columns, cells, strict=True)}


def check_parquet(path: Path, fields: Fields) -> None:
    """Raises Fatal if it is not Parquet or lacks a column, or if pyarrow is not installed."""
    pyarrow = _pyarrow(str(path))
    with _parquet_file(pyarrow, path) as parquet:
        _check_columns(str(path), parquet.schema_arrow.names, fields)


def read_parquet(path: Path, fields: Fields, advance: Advance) -> Iterator[Item]:
    """The changes of a Parquet file, read in batches; values keep their types. `where` counts rows from 1."""
    pyarrow = _pyarrow(str(path))
    with _parquet_file(pyarrow, path) as parquet:
        columns = [name for name in parquet.schema_arrow.names if not name.startswith("__index_level_")]
        size, total_rows, number, told = path.stat().st_size, parquet.metadata.num_rows, 0, 0
        batches: Iterable[Any] = parquet.iter_batches(batch_size=_BATCH_ROWS, columns=fields.wanted(columns))
        try:
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield _item(row, fields, f"{path}:{number}")
                read = size * number // total_rows
                advance(read - told)
                told = read
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # also times beyond the year 9999
            raise Fatal(f"{path} is damaged after row {number}: {error}") from error


def _item(row: dict[str, Any], fields: Fields, where: str) -> Item:
    try:
        return Change(fields.change(row), where)
    except InvalidChange as error:
        return BadInput(where, error.reason)


def _parquet_file(pyarrow: ModuleType, path: Path) -> Any:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise Fatal(f"{path} is not Parquet: {error}") from error


def _pyarrow(name: str) -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise Fatal(f"{name}: reading Parquet needs pyarrow: pip install 'headrace[parquet]'") from error
    return pyarrow  # type: ignore[no-any-return]


def _check_columns(name: str, columns: list[str], fields: Fields) -> None:
    missing = fields.missing(columns)
    if missing:
        raise Fatal(
            f"{name} has no column {', '.join(map(repr, missing))}; it has {', '.join(columns)}. "
            "Name the columns with --id-field, --text-field and so on"
        )
