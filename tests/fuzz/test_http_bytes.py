"""What no description says can be sent: any bytes to the gateway and to an index worker are refused, never a 500."""

from __future__ import annotations

import base64
import gzip
import socket
import time
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.shard.question import ShardQuery
from schemas.errors import BadRequest
from schemas.filters import MAX_FILTER_DEPTH, parse_filter
from schemas.search import MAX_K, parse_search_request
from tests.fuzz.mutations import FUZZ, json_mutations
from tests.fuzz.stack import IDS, Running
from tests.unit.shard.parts import unit

SCALARS = st.sampled_from(["en", "", "\0", 0, 1, -(2**63), 2**63 - 1, 0.5, True, "x" * 200])
NAMES = st.sampled_from(["lang", "year", "tags", "none", "share", "on", "nowhere", "", "\0", "a.b", "'; DROP TABLE x"])
OPERATORS = st.dictionaries(
    st.sampled_from(["eq", "in", "gt", "gte", "lt", "lte", "exists", "like"]), SCALARS | st.lists(SCALARS)
)
FILTERS = st.recursive(
    st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=4) | OPERATORS, max_size=3),
    lambda inner: (
        st.fixed_dictionaries({"and": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"or": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"not": inner})
    ),
    max_leaves=8,
)
VECTORS = st.sampled_from([[1.0] * 8, [0.0] * 8, [1e308] * 8, [-1e-320] * 8, [1], [], [1] * 16_384, [1] * 16_385])
QUERIES = st.sampled_from(
    ['"', "-", "*", 'a* -b "c d"', "\0", "x" * 10_000, "x" * 10_001, " ", "a:b^2~3", "(", "né\u0301 ﬁ İ", "AND OR NOT"]
)
SEARCHES = st.fixed_dictionaries(
    {"timeout_ms": st.just(5)},
    optional={
        "query": QUERIES | st.text(max_size=20),
        "vector": VECTORS,
        "k": st.sampled_from([0, 1, 10, MAX_K, MAX_K + 1, True, 1.0]),
        "mode": st.sampled_from(["vector", "keyword", "hybrid", "all"]),
        "filter": FILTERS,
        "min_offsets": st.dictionaries(
            st.sampled_from(["0", "1", "2", "-1", "00", "999999999", "x", ""]), st.sampled_from([0, 1, 2**63 - 1, -1])
        ),
        "max_staleness_ms": st.sampled_from([0, 2**63 - 1, -1]),
    },
)
ASKED = {
    "shards": [0, 1],
    "mode": "hybrid",
    "query": "text",
    "vector": base64.b64encode(unit(1).tobytes()).decode(),
    "fingerprint": None,
    "k": 5,
    "filter": {"lang": "en"},
    "min_offsets": {"0": 1},
    "max_staleness_ms": None,
    "timeout_ms": 5,
}


@pytest.fixture(scope="module")
def client() -> Any:
    with httpx.Client(timeout=20) as opened:
        yield opened


def explained(response: httpx.Response, *statuses: int) -> str:
    assert response.status_code in statuses, response.text
    error = response.json()["error"]
    assert error["status"] == response.status_code
    assert 0 < len(error["message"]) < 2000
    return str(error["message"])


@FUZZ
@given(SEARCHES.map(orjson.dumps) | json_mutations(SEARCHES) | st.binary(max_size=80))
def test_any_search_is_answered_or_refused_with_a_reason(served: Running, client: httpx.Client, body: bytes) -> None:
    try:
        asked = parse_search_request(body)
        waits = bool(asked.min_offsets) or asked.max_staleness_ms is not None
    except BadRequest:
        waits = False
    if waits and asked.timeout_ms > 50:
        return
    response = client.post(f"{served.gateway}/search", content=body)
    if response.status_code == 200:
        assert response.json()["partial"] is False
    else:
        explained(response, 400, *([504] if waits else []))


@FUZZ
@given(json_mutations(st.just(ASKED) | SEARCHES.map(lambda asked: ASKED | asked)) | st.binary(max_size=40))
def test_any_question_to_an_index_worker_is_answered_or_refused(
    served: Running, client: httpx.Client, body: bytes
) -> None:
    try:
        if ShardQuery.decode(body).deadline > time.monotonic() + 0.05:
            return
    except BadRequest:
        pass
    response = client.post(f"{served.worker}/shards/search", content=body)
    if response.status_code != 200:
        explained(response, 400)
    for said in response.json().get("shards", {}).values():
        assert "hits" in said or said["status"] in (400, 503, 504)


@FUZZ
@given(
    st.text(min_size=1, max_size=20)
    | st.sampled_from(IDS)
    | st.sampled_from(["x" * 1024, "x" * 1025, "é" * 513, ".", ".."])
)
def test_any_id_is_found_not_found_or_refused(served: Running, client: httpx.Client, document_id: str) -> None:
    path = quote(document_id, safe="")
    for response in (
        client.get(f"{served.gateway}/documents/{path}"),
        client.get(f"{served.gateway}/documents/{path}/receipt"),
        client.get(f"{served.worker}/shards/document", params={"id": document_id}),
        client.get(f"{served.worker}/shards/row", params={"id": document_id}),
    ):
        assert response.status_code in (200, 400, 404), response.text
        assert document_id not in IDS or response.status_code == 200


def test_an_id_that_no_document_can_have_is_refused(served: Running, client: httpx.Client) -> None:
    assert "1025 bytes" in explained(client.get(f"{served.gateway}/documents/{'x' * 1025}"), 400)
    assert "1026 bytes" in explained(client.get(f"{served.gateway}/documents/{quote('é' * 513)}"), 400)
    for path in ("%ff", "%ed%a0%80", "a%c3"):
        explained(client.get(f"{served.gateway}/documents/{path}"), 400, 404)
    for path in ("", "?id=", "?id=" + "x" * 1025):
        for question in ("document", "row"):
            explained(client.get(f"{served.worker}/shards/{question}{path}"), 400)


@pytest.mark.parametrize("shard", ["", "x", "-1", "9" * 5000, "١", "1.0", "0x1"])
def test_a_shard_that_is_no_number_is_refused(served: Running, client: httpx.Client, shard: str) -> None:
    explained(client.get(f"{served.worker}/shards/queries", params={"shard": shard}), 400)


@pytest.mark.parametrize("path", ["gateway/search", "gateway/wait", "worker/shards/search"])
@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 900_000,
        b'{"filter":' * 90_000,
        b'{"query":"a","filter":{"not":' + b'{"not":' * 150 + b"{}" + b"}" * 152,
        b'{"query":"a","k":' + b"9" * 900_000 + b"}",
        b'{"query":"a","' + b"k" * 900_000 + b'":1}',
        b'{"query":"a","filter":{"' + b"k" * 900_000 + b'":1}}',
        b'{"vector":[' + b"1," * 400_000 + b"1]}",
        b'{"query":"a","min_offsets":{' + b",".join(b'"%d":1' % n for n in range(50_000)) + b"}}",
        b'{"query":"a","filter":{"lang":[' + b"1," * 400_000 + b"1]}}",
    ],
)
def test_a_bomb_is_refused_in_no_time(served: Running, client: httpx.Client, path: str, bomb: bytes) -> None:
    role, _, rest = path.partition("/")
    started = time.perf_counter()
    explained(client.post(f"{getattr(served, role)}/{rest}", content=bomb), 400)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
@pytest.mark.parametrize("path", ["gateway/search", "gateway/wait", "worker/shards/search"])
def test_a_compressed_body_is_refused_and_never_unpacked(
    served: Running, client: httpx.Client, path: str, encoding: str
) -> None:
    role, _, rest = path.partition("/")
    for body in (gzip.compress(b" " * 2**25), b"\xff\0no"):
        answer = client.post(f"{getattr(served, role)}/{rest}", content=body, headers={"Content-Encoding": encoding})
        assert "send the body uncompressed" in explained(answer, 400)


def test_a_body_over_the_limit_is_refused(served: Running, client: httpx.Client) -> None:
    response = client.post(f"{served.gateway}/search", content=b" " * (2**20 + 1))
    assert "HEADRACE_MAX_REQUEST_BYTES" in explained(response, 413)
    assert client.post(f"{served.worker}/shards/search", content=b" " * (2**20 + 1)).status_code == 413


@pytest.mark.parametrize("largest", [1.7e308, 1e200, 5e-324])
def test_a_vector_of_any_length_becomes_a_unit_vector(served: Running, client: httpx.Client, largest: float) -> None:
    response = client.post(f"{served.gateway}/search", json={"vector": [largest, *[0.0] * 6, largest]})
    assert response.status_code == 200
    assert all(-1.01 < hit["score"] < 1.01 for hit in response.json()["hits"])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\xff\xfe\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /static/../server.py HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /static/%2e%2e/server.py HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /static/..%2fserver.py HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /documents/%00%ff HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_requests_that_are_hardly_http_are_refused_and_the_next_is_answered(
    served: Running, client: httpx.Client, request_bytes: bytes
) -> None:
    url = urlsplit(served.gateway)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65_536)
    assert not answer or answer[9:10] == b"4", answer[:200]
    assert client.get(f"{served.gateway}/healthz").status_code == 200


@FUZZ
@given(FILTERS)
def test_any_filter_is_parsed_or_refused(source: dict[str, Any]) -> None:
    try:
        parse_filter(source)
    except BadRequest as error:
        reason = str(error)
    else:
        reason = "filter."
    assert reason.startswith("filter")
    assert len(reason) < 500


def test_a_filter_is_refused_by_its_depth_its_terms_and_the_length_of_its_names() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(MAX_FILTER_DEPTH + 1):
        deep = {"not": deep}
    for source, reason in (
        (deep, "nested deeper than"),
        ({"or": [{"a": 1}] * 300}, "more than 256 terms"),
        ({"x" * 129: 1}, "longer than 128 characters"),
        ({"a": {"like": "x" * 5000}}, "unknown operator"),
    ):
        with pytest.raises(BadRequest, match=reason):
            parse_filter(source)
