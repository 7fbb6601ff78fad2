"""The metadata filter's JSON: every form parses to what it says, every refusal names the field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadRequest
from schemas.filters import (
    MAX_FILTER_DEPTH,
    MAX_FILTER_TERMS,
    AllOf,
    AnyOf,
    Compare,
    Exists,
    Not,
    OneOf,
    filter_fields,
    parse_filter,
)


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ({"lang": "en"}, OneOf("lang", ("en",))),
        ({"lang": ["en", "de"]}, OneOf("lang", ("en", "de"))),
        ({"lang": []}, OneOf("lang", ())),
        ({"open": False}, OneOf("open", (False,))),
        ({"lang": {"eq": "en"}}, OneOf("lang", ("en",))),
        ({"lang": {"in": ["en", 7, 1.5]}}, OneOf("lang", ("en", 7, 1.5))),
        ({"year": {"gte": 2020, "lt": 2026}}, AllOf((Compare("year", ">=", 2020), Compare("year", "<", 2026)))),
        ({"year": {"gt": 1.5}}, Compare("year", ">", 1.5)),
        ({"name": {"lte": "m"}}, Compare("name", "<=", "m")),
        ({"owner": {"exists": True}}, Exists("owner")),
        ({"owner": {"exists": False}}, Not(Exists("owner"))),
        ({"a": 1, "b": 2}, AllOf((OneOf("a", (1,)), OneOf("b", (2,))))),
        ({"and": [{"a": 1}, {"b": 2}]}, AllOf((OneOf("a", (1,)), OneOf("b", (2,))))),
        ({"or": [{"a": 1}, {"b": 2}]}, AnyOf((OneOf("a", (1,)), OneOf("b", (2,))))),
        ({"not": {"a": 1}}, Not(OneOf("a", (1,)))),
        ({"or": []}, AnyOf(())),
        ({}, AllOf(())),
    ],
)
def test_every_form_means_what_the_docstring_says(source: dict[str, Any], parsed: object) -> None:
    assert parse_filter(source) == parsed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "filter: expected an object, got list"),
        ({"lang": None}, 'filter.lang: null is not a value; use {"exists": false}'),
        ({"lang": ["en", None]}, "filter.lang: null is not a value"),
        ({"lang": [["en"]]}, "filter.lang: expected text, a number, true, false or a list"),
        ({"lang": {}}, "filter.lang: expected a value or one of eq, in, gt, gte, lt, lte, exists"),
        ({"lang": {"like": "e%"}}, "filter.lang.like: unknown operator or wrong type; use eq, in"),
        ({"lang": {"in": "en"}}, "filter.lang.in: .*in \\(list\\)"),
        ({"lang": {"exists": 1}}, "filter.lang.exists: .*exists \\(true or false\\)"),
        ({"year": {"gt": True}}, "filter.year.gt: .*number or text"),
        ({"year": {"gt": None}}, "filter.year.gt: "),
        ({"year": 2**63}, "filter.year: 9223372036854775808 does not fit in 64 bits"),
        ({"year": {"lt": -(2**63) - 1}}, "filter.year: .* does not fit in 64 bits"),
        ({"year": float("inf")}, "filter.year: inf is not a finite number"),
        ({"year": {"gt": float("nan")}}, "filter.year: nan is not a finite number"),
        ({"and": {"a": 1}}, "filter.and: expected a list of filters"),
        ({"or": [1]}, "filter: expected an object, got int"),
        ({"not": [{"a": 1}]}, "filter: expected an object, got list"),
    ],
)
def test_a_refusal_names_the_field_and_what_is_accepted(source: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_filter(source)


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"a": 1} if depth == 0 else {"not": nested(depth - 1)}

    assert filter_fields(parse_filter(nested(MAX_FILTER_DEPTH))) == {"a"}
    with pytest.raises(BadRequest, match=f"nested deeper than {MAX_FILTER_DEPTH}"):
        parse_filter(nested(MAX_FILTER_DEPTH + 1))


@pytest.mark.parametrize(
    "spread", [lambda n: {"a": list(range(n))}, lambda n: {"or": [{"a": i} for i in range(n - 1)]}]
)
def test_terms_are_bounded(spread: Any) -> None:
    assert filter_fields(parse_filter(spread(MAX_FILTER_TERMS))) == {"a"}
    with pytest.raises(BadRequest, match=f"more than {MAX_FILTER_TERMS} terms"):
        parse_filter(spread(MAX_FILTER_TERMS + 1))


def test_all_fields_of_a_filter_are_known_however_deep() -> None:
    source = {"a": 1, "or": [{"b": {"gt": 1}}, {"not": {"c": {"exists": True}}}, {"and": [{"d": "x"}]}]}
    assert filter_fields(parse_filter(source)) == {"a", "b", "c", "d"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "and", "or", "not", "eq", "in", "gt", "lte", "exists"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_parses_or_is_a_bad_request(source: Any) -> None:
    try:
        fields = filter_fields(parse_filter(source))
    except BadRequest:
        return
    assert all(isinstance(name, str) for name in fields)
