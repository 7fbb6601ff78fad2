"""Filters as SQL and as Python mean the same, and what they say in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.shard.filters import compile_filter, field_rows, matches
from app.shard.shard import Shard
from app.shard.store import _SCHEMA
from schemas.errors import BadRequest
from schemas.filters import MAX_FILTER_DEPTH, MAX_FILTER_TERMS, parse_filter
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


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    opened.executescript(_SCHEMA)
    yield opened
    opened.close()


def fill(connection: sqlite3.Connection, documents: list[dict[str, Any]]) -> None:
    """Rows 1, 2, … are living; row 100 is deleted."""
    connection.executescript("DELETE FROM documents; DELETE FROM fields")
    for doc in (*range(1, len(documents) + 1), 100):
        connection.execute(
            "INSERT INTO documents (doc, id, deleted, source_offset, event_time_ms, indexed_time_ms) "
            "VALUES (?, ?, ?, 0, 0, 0)",
            (doc, str(doc), doc == 100),
        )
    for doc, metadata in enumerate(documents, 1):
        connection.executemany("INSERT OR IGNORE INTO fields VALUES (?, ?, ?)", field_rows(metadata, doc))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(METADATA, max_size=5), FILTERS)
def test_the_sql_selects_what_the_filter_says(
    connection: sqlite3.Connection, documents: list[dict[str, Any]], source: dict[str, Any]
) -> None:
    fill(connection, documents)
    parsed = parse_filter(source)
    selected = {row[0] for row in connection.execute(*compile_filter(parsed))}
    assert selected == {doc for doc, metadata in enumerate(documents, 1) if matches(parsed, metadata)}


WRAPS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "not": lambda inner: {"not": inner},
    "and": lambda inner: {"and": [{"lang": "en"}, inner]},
    "or": lambda inner: {"or": [{"year": 1}, inner]},
}


@pytest.mark.parametrize("wraps", [["not"], ["and"], ["or"], ["not", "and"], ["not", "or"], ["and", "or", "not"]])
def test_the_deepest_filter_is_still_sql(connection: sqlite3.Connection, wraps: list[str]) -> None:
    documents = [{"lang": "en"}, {"lang": "de", "year": 1}]
    fill(connection, documents)
    source: dict[str, Any] = {"year": {"gte": 1}}
    for level in range(MAX_FILTER_DEPTH):
        source = WRAPS[wraps[level % len(wraps)]](source)
    parsed = parse_filter(source)
    selected = {row[0] for row in connection.execute(*compile_filter(parsed))}
    assert selected == {doc for doc, metadata in enumerate(documents, 1) if matches(parsed, metadata)}


def test_the_widest_filter_is_still_sql(connection: sqlite3.Connection) -> None:
    fill(connection, [{"lang": "en"}])
    wide = {"or": [{"year": number} for number in range(MAX_FILTER_TERMS - 2)] + [{"lang": "en"}]}
    for source in (wide, {"lang": [str(number) for number in range(MAX_FILTER_TERMS - 1)] + ["en"]}):
        assert connection.execute(*compile_filter(parse_filter(source))).fetchall() == [(1,)]


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
        ({"n": {"exists": True}}, {"n": None}, False),
        ({"n": {"exists": True}}, {"n": []}, False),
        ({"n": {"exists": False}}, {}, True),
        ({"not": {"n": 1}}, {}, True),
        ({"and": []}, {}, True),
        ({"or": []}, {}, False),
    ],
)
def test_a_filter_lets_through_what_it_says(
    connection: sqlite3.Connection, source: dict[str, Any], metadata: dict[str, Any], right: bool
) -> None:
    fill(connection, [metadata])
    parsed = parse_filter(source)
    assert matches(parsed, metadata) == right
    assert (connection.execute(*compile_filter(parsed)).fetchall() == [(1,)]) == right


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
    shard.apply(
        [document(0, "a", unit(1), metadata={"lang": "en", "year": None, "tags": ["x", "y"], "": ""} | {"z": 1})]
    )
    assert (shard.field_names(), shard.unknown_fields(parsed)) == ({"lang", "tags", "z", ""}, {"year", "colour"})
    shard.apply([delete(1, "a")])
    assert shard.field_names() == set()
    with pytest.raises(BadRequest):
        parse_filter({"lang": None})
    shard.close()
