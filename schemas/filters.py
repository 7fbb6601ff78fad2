"""The metadata filter of a search: JSON in, a small tree out.

{"lang": "en"}                                  equality
{"lang": ["en", "de"]}                          one of
{"year": {"gte": 2020, "lt": 2026}}             range: gt, gte, lt, lte
{"owner": {"exists": true}}                     has a value
{"lang": {"eq": "en"}}, {"lang": {"in": [..]}}  the same, spelt out
{"and": [..]}, {"or": [..]}, {"not": {..}}      combined; several fields side by side mean "and"
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from schemas.errors import BadRequest

Scalar = str | int | float | bool
T = TypeVar("T", bound=Scalar)
MAX_FILTER_DEPTH = 8  # SQLite before 3.46 can parse no deeper subqueries
MAX_FILTER_TERMS = 256
_MAX_NAME_CHARS = 128  # no field of metadata has a longer name
_RANGE = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field's value (or one of its values, if it is a list) is among `values`."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The field's value stands in relation `operator` (>, >=, <, <=) to `value`, both numbers or both text."""

    field: str
    operator: str
    value: str | int | float


@dataclass(frozen=True, slots=True)
class Exists:
    """The field has a value other than null."""

    field: str


@dataclass(frozen=True, slots=True)
class Not:
    """The inner filter does not hold."""

    inner: Filter


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every inner filter holds; of none: always."""

    inner: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one inner filter holds; of none: never."""

    inner: tuple[Filter, ...]


Filter = OneOf | Compare | Exists | Not | AllOf | AnyOf


def parse_filter(source: dict[str, Any]) -> Filter:
    """Parse the JSON of a filter. Raises BadRequest that names the field and what is accepted."""
    parsed = _parse(source, 0)
    if _count_terms(parsed) > MAX_FILTER_TERMS:
        raise BadRequest(f"filter: more than {MAX_FILTER_TERMS} terms")
    return parsed


def filter_fields(parsed: Filter) -> set[str]:
    """The metadata fields that a filter names."""
    match parsed:
        case Not(inner):
            return filter_fields(inner)
        case AllOf(inner) | AnyOf(inner):
            return set().union(*(filter_fields(item) for item in inner))
        case _:
            return {parsed.field}


def _count_terms(parsed: Filter) -> int:
    match parsed:
        case Not(inner):
            return 1 + _count_terms(inner)
        case AllOf(inner) | AnyOf(inner):
            return 1 + sum(_count_terms(item) for item in inner)
        case OneOf(_, values):
            return len(values)
        case _:
            return 1


def _parse(source: Any, depth: int) -> Filter:
    if not isinstance(source, dict):
        raise BadRequest(f"filter: expected an object, got {type(source).__name__}")
    if depth > MAX_FILTER_DEPTH:
        raise BadRequest(f"filter: nested deeper than {MAX_FILTER_DEPTH}")
    terms = tuple(_parse_entry(name, value, depth) for name, value in source.items())
    return terms[0] if len(terms) == 1 else AllOf(terms)


def _parse_entry(name: str, value: Any, depth: int) -> Filter:
    if len(name) > _MAX_NAME_CHARS:
        raise BadRequest(f"filter: the name {name[:20]!r}… is longer than {_MAX_NAME_CHARS} characters")
    if name in ("and", "or"):
        if not isinstance(value, list):
            raise BadRequest(f"filter.{name}: expected a list of filters")
        inner = tuple(_parse(item, depth + 1) for item in value)
        return AllOf(inner) if name == "and" else AnyOf(inner)
    if name == "not":
        return Not(_parse(value, depth + 1))
    if isinstance(value, dict):
        return _parse_operators(name, value)
    return _one_of(name, value if isinstance(value, list) else [value])


def _parse_operators(name: str, operators: dict[str, Any]) -> Filter:
    if not operators:
        raise BadRequest(f"filter.{name}: expected a value or one of eq, in, gt, gte, lt, lte, exists")
    terms: list[Filter] = []
    for operator, value in operators.items():
        if operator == "eq":
            terms.append(_one_of(name, [value]))
        elif operator == "in" and isinstance(value, list):
            terms.append(_one_of(name, value))
        elif operator == "exists" and isinstance(value, bool):
            terms.append(Exists(name) if value else Not(Exists(name)))
        elif operator in _RANGE and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            terms.append(Compare(name, _RANGE[operator], _bounded(name, value)))
        else:
            raise BadRequest(
                f"filter.{name}.{operator}: unknown operator or wrong type; use eq, in (list), gt, gte, lt, lte "
                "(number or text), exists (true or false)"
            )
    return terms[0] if len(terms) == 1 else AllOf(tuple(terms))


def _one_of(name: str, values: list[Any]) -> Filter:
    if None in values:
        raise BadRequest(f'filter.{name}: null is not a value; use {{"exists": false}}')
    if not all(isinstance(value, (str, int, float, bool)) for value in values):
        raise BadRequest(f"filter.{name}: expected text, a number, true, false or a list of them")
    return OneOf(name, tuple(_bounded(name, value) for value in values))


def _bounded(name: str, value: T) -> T:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BadRequest(f"filter.{name}: {value} does not fit in 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRequest(f"filter.{name}: {value} is not a finite number")
    return value
