"""Requests of POST /search: what is taken, and what a refusal says."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.errors import BadRequest
from schemas.search import MAX_K, SearchRequest, parse_search_request


def parsed(**fields: object) -> SearchRequest:
    return parse_search_request(orjson.dumps(fields))


def test_a_query_alone_is_enough() -> None:
    request = parsed(query="parse a date")
    assert (request.k, request.mode, request.timeout_ms) == (10, None, 2000)
    assert (request.filter, request.min_offsets, request.max_staleness_ms) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give 'query' \\(text\\), 'vector', or both"),
        ({"vector": [1], "mode": "keyword"}, "mode 'keyword' looks for words: give 'query' .* or use mode 'vector'"),
        ({"vector": [1], "mode": "hybrid"}, "mode 'hybrid' looks for words: give 'query'"),
        ({"query": "", "vector": [1]}, "'query' is empty"),
        ({"query": " \n"}, "'query' is empty"),
        ({"query": "x" * 10_001}, "query: .*at most 10000 characters"),
        ({"query": "x", "k": 0}, "k: .*greater than or equal to 1"),
        ({"query": "x", "k": MAX_K + 1}, f"k: .*less than or equal to {MAX_K}"),
        ({"query": "x", "k": "5"}, "k: .*valid integer"),
        ({"query": "x", "k": 2.0}, "k: .*valid integer"),
        ({"query": "x", "mode": "psychic"}, "mode: .*'vector', 'keyword' or 'hybrid'"),
        ({"query": "x", "filter": "lang=en"}, "filter: .*"),
        ({"query": "x", "min_offsets": {"zero": 1}}, "min_offsets.zero: .*"),
        ({"query": "x", "min_offsets": {"٣": 1}}, "min_offsets.٣: .*"),
        ({"query": "x", "min_offsets": {"0": -1}}, "min_offsets.0: .*greater than or equal to 0"),
        ({"query": "x", "min_offsets": {"0": 2**63}}, "min_offsets.0: .*less than"),
        ({"query": "x", "max_staleness_ms": -1}, "max_staleness_ms: .*"),
        ({"query": "x", "max_staleness_ms": 2**63}, "max_staleness_ms: .*less than"),
        ({"query": "x", "timeout_ms": 60_001}, "timeout_ms: .*60000"),
        ({"query": "x", "top_k": 3}, "top_k: Extra inputs are not permitted"),
        ({"vector": ["x"]}, "vector.0: .*valid number"),
    ],
)
def test_a_refusal_names_the_field_and_what_is_accepted(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parsed(**fields)


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({"query": "x"}, "hybrid"),
        ({"vector": [1]}, "vector"),
        ({"query": "x", "vector": [1]}, "hybrid"),
        ({"query": "x", "mode": None}, "hybrid"),
        ({"query": "x", "mode": "vector"}, "vector"),
        ({"query": "x", "mode": "keyword"}, "keyword"),
        ({"query": "x", "vector": [1], "mode": "keyword"}, "keyword"),
    ],
)
def test_the_mode_is_the_one_asked_for_or_follows_from_the_question(fields: dict[str, object], mode: str) -> None:
    assert parsed(**fields).resolved_mode == mode


@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b'{"query": "\\ud800"}', b'{"vector": [1e999]}', b"[" * 10_000])
def test_what_is_no_search_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_search_request(body)


@given(
    st.binary()
    | st.dictionaries(st.sampled_from(list(SearchRequest.model_fields)), st.integers() | st.text())
    .map(repr)
    .map(str.encode)
)
@example(b'{"query":"x","min_offsets":{"0":100000000000000000000}}')
def test_what_is_taken_can_be_sent_on_to_the_shards(body: bytes) -> None:
    """The gateway's JSON holds no number beyond 64 bits: such a request must end here, as 400."""
    try:
        request = parse_search_request(body)
    except BadRequest:
        return
    assert orjson.dumps(request.model_dump(exclude={"filter"}))
