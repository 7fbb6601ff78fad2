"""Filters over columns and over one document mean the same, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.shard.columns import Columns, matches
from app.shard.shard import Shard
from schemas.errors import BadRequest
from schemas.filters import MAX_FILTER_DEPTH, MAX_FILTER_TERMS, Filter, parse_filter
from tests.unit.shard.parts import delete, document, found, open_shard, unit

NAMES = st.sampled_from(["lang", "year", "Ünï"])
SCALARS = st.sampled_from(["en", "de", "", "1", "a\0b", 0, 1, -3, 2.5, 1.0, 2**63 - 1, -(2**63), True, False])
METADATA = st.dictionaries(NAMES, st.none() | SCALARS | st.lists(st.sampled_from(["en", "de", "1"]), max_size=2))
LEAVES: st.SearchStrategy[Any] = (
    st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3), min_size=1, max_size=2)
    | st.builds(
        lambda name, operator, value: {name: {operator: value}},
        NAMES,
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.sampled_from(["en", "a", 0, 1, 2.5, -3, 2**53 + 1]),
    )
    | st.builds(lambda name, there: {name: {"exists": there}}, NAMES, st.booleans())
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(lambda items: {"and": items}, st.lists(inner, max_size=3))
        | st.builds(lambda items: {"or": items}, st.lists(inner, max_size=3))
        | st.builds(lambda item: {"not": item}, inner)
    ),
    max_leaves=6,
)


def selected(parsed: Filter, documents: list[dict[str, Any]]) -> set[int]:
    """The documents (from 0 on) that columns let through; they were added in two steps, as they come in life."""
    columns, half = Columns(), len(documents) // 2
    for rows in (range(half), range(half, len(documents))):
        columns.add(rows, [documents[row] for row in rows])
    columns.add([len(documents)], [{"lang": "en", "year": 1}])  # of the next generation
    return set(np.flatnonzero(columns.mask(parsed, len(documents))).tolist())


@settings(max_examples=300, deadline=None)
@given(st.lists(METADATA, max_size=5), FILTERS)
def test_the_columns_select_what_the_filter_says(documents: list[dict[str, Any]], source: dict[str, Any]) -> None:
    parsed = parse_filter(source)
    assert selected(parsed, documents) == {row for row, data in enumerate(documents) if matches(parsed, data)}


@settings(max_examples=100, deadline=None)
@given(st.lists(METADATA, min_size=1, max_size=6), FILTERS, st.data())
def test_columns_that_are_copied_without_some_rows_say_the_same_of_the_others(
    documents: list[dict[str, Any]], source: dict[str, Any], data: st.DataObject
) -> None:
    kept = [row for row in range(len(documents)) if data.draw(st.booleans())]
    first = data.draw(st.integers(0, len(documents)))
    columns = Columns()
    columns.add(range(len(documents)), documents)
    copy = Columns()
    for rows, at in ((range(first), 0), (range(first, len(documents)), first)):
        numbers = [kept.index(row) if row in kept else -1 for row in rows]
        copy.added(columns, at, np.array(numbers, np.int32))
    parsed = parse_filter(source)
    right = [matches(parsed, documents[row]) for row in kept]
    assert copy.mask(parsed, len(kept)).tolist() == right


WRAPS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "not": lambda inner: {"not": inner},
    "and": lambda inner: {"and": [{"lang": "en"}, inner]},
    "or": lambda inner: {"or": [{"year": 1}, inner]},
}


@pytest.mark.parametrize("wraps", [["not"], ["and"], ["or"], ["not", "and"], ["not", "or"], ["and", "or", "not"]])
def test_the_deepest_filter_is_answered(wraps: list[str]) -> None:
    documents: list[dict[str, Any]] = [{"lang": "en"}, {"lang": "de", "year": 1}]
    source: dict[str, Any] = {"year": {"gte": 1}}
    for level in range(MAX_FILTER_DEPTH):
        source = WRAPS[wraps[level % len(wraps)]](source)
    parsed = parse_filter(source)
    assert selected(parsed, documents) == {row for row, data in enumerate(documents) if matches(parsed, data)}


def test_the_widest_filter_is_answered() -> None:
    wide = {"or": [{"year": number} for number in range(MAX_FILTER_TERMS - 2)] + [{"lang": "en"}]}
    for source in (wide, {"lang": [str(number) for number in range(MAX_FILTER_TERMS - 1)] + ["en"]}):
        assert selected(parse_filter(source), [{"lang": "en"}, {"lang": "fr"}]) == {0}


@pytest.mark.parametrize(
    ("source", "metadata", "right"),
    [
        ({"lang": "en"}, {"lang": "en"}, True),
        ({"lang": "en"}, {"lang": ["de", "en"]}, True),
        ({"lang": []}, {"lang": "en"}, False),
        ({"n": 1}, {"n": 1.0}, True),
        ({"n": 1}, {"n": True}, False),
        ({"n": True}, {"n": 1}, False),
        ({"n": False}, {"n": False}, True),
        ({"n": "1"}, {"n": 1}, False),
        ({"n": {"gt": 1}}, {"n": "2"}, False),
        ({"n": {"gt": 0}}, {"n": True}, False),
        ({"n": {"gte": 2, "lt": 3}}, {"n": 2.5}, True),
        ({"n": {"lt": "b"}}, {"n": "a"}, True),
        ({"n": 2**53 + 1}, {"n": float(2**53)}, False),
        ({"n": {"gt": float(2**53)}}, {"n": 2**53 + 1}, True),
        ({"n": {"lt": 2**53 + 1}}, {"n": float(2**53)}, True),
        ({"n": {"gte": 2**53 + 1}}, {"n": float(2**53)}, False),
        ({"n": {"gt": -2.5}}, {"n": -2}, True),
        ({"n": {"lt": -2.5}}, {"n": -2}, False),
        ({"n": {"lte": 1e300}}, {"n": 2**63 - 1}, True),
        ({"n": {"gt": 1e30}}, {"n": 1e300}, True),
        ({"n": {"exists": True}}, {"n": None}, False),
        ({"n": {"exists": True}}, {"n": []}, False),
        ({"n": {"exists": False}}, {}, True),
        ({"not": {"n": 1}}, {}, True),
        ({"and": []}, {}, True),
        ({"or": []}, {}, False),
    ],
)
def test_a_filter_lets_through_what_it_says(source: dict[str, Any], metadata: dict[str, Any], right: bool) -> None:
    parsed = parse_filter(source)
    assert matches(parsed, metadata) == right
    assert selected(parsed, [metadata]) == ({0} if right else set())


def test_a_filter_follows_updates_and_deletes_of_a_document(tmp_path: Path) -> None:
    shard = open_shard(tmp_path)

    def search(source: dict[str, Any]) -> list[str]:
        return [hit.document.id for hit in shard.search(unit(1), 9, parse_filter(source), None)]

    shard.apply([document(n, name, unit(1, n), metadata={"lang": "en", "n": n}) for n, name in enumerate("abc")])
    assert search({"lang": "en"}) == ["a", "b", "c"]
    shard.apply([document(3, "a", unit(1), metadata={"lang": "de"}), delete(4, "b")])
    assert (search({"lang": "en"}), search({"lang": "de"}), search({"n": {"exists": False}})) == (["c"], ["a"], ["a"])
    assert search({"not": {"lang": "de"}}) == ["c"]
    assert found(shard, unit(1)) == ["a", "c"]
    shard.close()


def test_fields_that_no_document_has_are_known_as_such(tmp_path: Path) -> None:
    shard: Shard = open_shard(tmp_path)
    parsed = parse_filter({"lang": "en", "or": [{"year": 1}, {"colour": "red"}]})
    assert (shard.field_names(), shard.unknown_fields(parsed)) == (set(), {"lang", "year", "colour"})
    shard.apply([document(0, "a", unit(1), metadata={"lang": "en", "tags": ["x", "y"], "z": 1})])
    assert (shard.field_names(), shard.unknown_fields(parsed)) == ({"lang", "tags", "z"}, {"year", "colour"})
    shard.apply([delete(1, "a")])
    assert shard.field_names() == {"lang", "tags", "z"}  # until the index is rebuilt
    with pytest.raises(BadRequest):
        parse_filter({"lang": None})
    shard.close()
