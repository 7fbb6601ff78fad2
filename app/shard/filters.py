"""Metadata filters as SQL over the `fields` table, which holds every (name, value, document)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import ge, gt, le, lt
from typing import Any

from schemas.filters import AllOf, AnyOf, Compare, Exists, Filter, Not, OneOf

Stored = str | int | float | bytes
_LIVING = "SELECT doc FROM documents WHERE deleted = 0"


def field_rows(metadata: dict[str, Any], doc: int) -> Iterator[tuple[str, Stored, int]]:
    """The rows of a document: one per field, one per item of a list, none for null.

    Booleans are told from the numbers 0 and 1 by being stored as blobs.
    """
    for name, value in metadata.items():
        for item in dict.fromkeys(value) if isinstance(value, list) else (value,):
            if item is not None:
                yield name, _stored(item), doc


def compile_filter(parsed: Filter) -> tuple[str, list[Any]]:
    """A SELECT of the documents that match, and its parameters."""
    match parsed:
        case OneOf(name, values):
            marks = ",".join("?" * len(values))
            sql = f"SELECT doc FROM fields WHERE name = ? AND value IN ({marks})"  # noqa: S608
            return sql, [name, *map(_stored, values)]
        case Compare(name, operator, value):
            kind = "text" if isinstance(value, str) else "real"
            sql = f"SELECT doc FROM fields WHERE name = ? AND value {operator} ? AND {_KINDS[kind]}"  # noqa: S608
            return sql, [name, _stored(value)]
        case Exists(name):
            return "SELECT doc FROM fields WHERE name = ?", [name]
        case Not(inner):
            sql, parameters = compile_filter(inner)
            return f"{_LIVING} AND doc NOT IN ({sql})", parameters
        case AllOf(inner):
            return _joined(inner, "INTERSECT", _LIVING)
        case AnyOf(inner):
            return _joined(inner, "UNION", "SELECT doc FROM documents WHERE 0")


def matches(parsed: Filter, metadata: dict[str, Any]) -> bool:
    """What `compile_filter` asks of all documents, asked of one."""
    match parsed:
        case OneOf(name, values):
            wanted = {_stored(value) for value in values}
            return any(value in wanted for value in _values(metadata, name))
        case Compare(name, operator, bound):
            kinds = str if isinstance(bound, str) else (int, float)
            return any(isinstance(v, kinds) and _COMPARE[operator](v, bound) for v in _values(metadata, name))
        case Exists(name):
            return bool(_values(metadata, name))
        case Not(inner):
            return not matches(inner, metadata)
        case AllOf(inner):
            return all(matches(item, metadata) for item in inner)
        case AnyOf(inner):
            return any(matches(item, metadata) for item in inner)


def _values(metadata: dict[str, Any], name: str) -> list[Stored]:
    return [value for _, value, _ in field_rows({name: metadata.get(name)}, 0)]


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {">": gt, ">=": ge, "<": lt, "<=": le}
_KINDS = {"text": "typeof(value) = 'text'", "real": "typeof(value) IN ('integer', 'real')"}


def _joined(inner: tuple[Filter, ...], operator: str, empty: str) -> tuple[str, list[Any]]:
    if not inner:
        return empty, []
    parts, parameters = [], []
    for item in inner:
        sql, own = compile_filter(item)
        parts.append(f"SELECT doc FROM ({sql})")  # noqa: S608
        parameters += own
    return f" {operator} ".join(parts), parameters


def _stored(value: str | int | float) -> Stored:
    return (b"true" if value else b"false") if isinstance(value, bool) else value
