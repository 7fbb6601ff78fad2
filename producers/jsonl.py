"""JSON Lines: one document change per line, or one row of named fields, or (for deletes) one id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

import orjson
from pydantic import ValidationError

from producers.changes import MAX_ITEM_BYTES, Advance, BadInput, Change, Fields, Item, skip_line
from schemas.document_change import DocumentChange, explain, parse_change
from schemas.errors import InvalidChange

_BOM = b"\xef\xbb\xbf"

ParseLine = Callable[[bytes], DocumentChange]


def line_parser(fields: Fields, *, mapped: bool) -> ParseLine:
    """How lines are read. mapped: by the names in `fields`, else a line is a DocumentChange."""
    if fields.delete:
        return partial(_deletion, fields=fields)
    return partial(_row, fields=fields) if mapped else _document_change


def read_jsonl(file: BinaryIO, name: str, parse: ParseLine, advance: Advance) -> Iterator[Item]:
    """The changes of one file or pipe, line by line as they come; blank lines are skipped."""
    number = 0
    while line := file.readline(MAX_ITEM_BYTES):
        number += 1
        advance(len(line))
        where = f"{name}:{number}"
        if len(line) == MAX_ITEM_BYTES and not line.endswith(b"\n"):
            skip_line(file, advance)
            yield BadInput(where, f"the line is longer than {MAX_ITEM_BYTES} bytes")
            continue
        content = (line.removeprefix(_BOM) if number == 1 else line).strip()
        if not content:
            continue
        try:
            yield Change(parse(content), where)
        except InvalidChange as error:
            yield BadInput(where, error.reason)


def _document_change(line: bytes) -> DocumentChange:
    try:
        return DocumentChange.model_validate_json(line)
    except ValidationError as error:
        raise InvalidChange(explain(error).replace(" at line 1 column ", " at column ")) from error


def _row(line: bytes, fields: Fields) -> DocumentChange:
    row = _json(line)
    if not isinstance(row, dict):
        raise InvalidChange("the line is not a JSON object")
    return fields.change(row)


def _deletion(line: bytes, fields: Fields) -> DocumentChange:
    """A document, of which the id counts; an id as JSON string; or an id as it stands."""
    if line.startswith(b"{"):
        return _row(line, fields)
    if line.startswith(b'"'):
        return parse_change({"op": "delete", "id": _json(line)})
    try:
        return parse_change({"op": "delete", "id": line.decode()})
    except UnicodeDecodeError:
        raise InvalidChange("the id is not UTF-8") from None


def _json(line: bytes) -> object:
    try:
        decoded: object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidChange(f"Invalid JSON: {error.msg} at column {error.colno}") from error
    return decoded
