"""Documents, status, health, the page and the description of the API."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from jsonschema import Draft202012Validator
from yarl import URL

from app.gateway.openapi import Document, openapi
from app.gateway.server import STATIC
from schemas.search import SearchRequest
from tests.unit.gateway.parts import IN_TIME_S, FakeWorker, gateway, hit, message, said, stored, within

ODD_IDS = [
    "a/b",
    "a%2Fb",
    "/leading",
    "trailing/",
    "..",
    "../../etc/passwd",
    "with space",
    "plus+plus",
    "q?x=1#frag",
    "100%",
    "Ключ 日本 🦫",
    "line\nbreak",
    "nul\0nul",
    "http://host/path",
    "é" * 512,
]


@pytest.mark.parametrize("document_id", ODD_IDS)
async def test_a_document_is_found_by_any_id(document_id: str) -> None:
    worker = FakeWorker(1, 0)
    worker.documents[document_id] = stored(document_id, title="t", version=3, trace_id="a" * 32)
    async with gateway(worker) as served:
        path = URL("/documents/" + quote(document_id, safe="").replace("..", "%2E%2E"), encoded=True)
        async with served.client.get(path) as response:
            answer = orjson.loads(await response.read())
        assert worker.document_ids == [document_id]
        assert (response.status, answer["id"]) == (200, document_id)
        Document.model_validate(answer, strict=True)


async def test_a_document_tells_its_times_and_how_fresh_its_shard_is() -> None:
    worker = FakeWorker(1, 0)
    worker.documents["a"] = stored("a", text="whole text", metadata={"n": 1})
    async with gateway(worker) as served:
        answer = await served.get("/documents/a")
        assert (answer["event_time"], answer["indexed_time"]) == (
            "1970-01-01T00:00:01.000Z",
            "1970-01-01T00:00:02.000Z",
        )
        assert (answer["text"], answer["metadata"], answer["freshness"]["applied_offset"]) == (
            "whole text",
            {"n": 1},
            9,
        )


async def test_a_document_that_is_not_there_is_404_and_a_deleted_one_says_so() -> None:
    worker = FakeWorker(1, 0)
    worker.documents["gone"] = stored("gone", deleted=True, text=None)
    async with gateway(worker) as served:
        assert message(await served.get("/documents/never", 404), 404) == "no document 'never'"
        assert message(await served.get("/documents/gone", 404), 404) == (
            "no document 'gone': it was deleted; its receipt: GET /documents/gone/receipt"
        )


async def test_only_the_404_of_a_document_names_one() -> None:
    worker = FakeWorker(1, 0)
    worker.documents["gone"] = stored("gone", deleted=True, text=None)
    async with gateway(worker) as served:
        for path, named in (("/documents/a%2Fb", "a/b"), ("/documents/gone", "gone"), ("/documents/a/receipt", "a")):
            assert (await served.get(path, 404))["error"]["document_id"] == named
        for path in ("/wrong/documents/a", "/documents/"):
            assert "document_id" not in (await served.get(path, 404))["error"]


async def test_a_document_deleted_in_one_shard_and_living_in_another_is_the_living_one() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.documents["a"], two.documents["a"] = stored("a", deleted=True, text=None), stored("a", shard=1)
    async with gateway(one, two) as served:
        assert (await served.get("/documents/a"))["shard"] == 1


async def test_a_document_that_may_be_in_a_silent_shard_is_503_and_not_404() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.documents["b"] = stored("b")
    async with gateway(one, two) as served:
        two.answers = 500
        assert two.url in message(await served.get("/documents/a", 503), 503)
        assert (await served.get("/documents/b"))["id"] == "b"


async def test_a_document_that_may_live_in_a_silent_shard_is_not_said_to_be_deleted() -> None:
    """Its producer has changed the partitioner: what it left behind is no proof."""
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.documents["a"], two.documents["b"] = stored("a", deleted=True, text=None), stored("b")
    one.documents["b"] = stored("b", deleted=True, text=None)
    async with gateway(one, two) as served:
        assert (await served.get("/documents/b"))["id"] == "b"
        two.answers = 500
        assert two.url in message(await served.get("/documents/a", 503), 503)


async def test_a_document_is_told_within_twice_the_time_of_a_shard_where_a_worker_hangs() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.documents["b"] = stored("b")
    async with gateway(one, two) as served:
        two.answers = "hangs"
        with within(IN_TIME_S):
            assert (await served.get("/documents/b"))["id"] == "b"
        with within(IN_TIME_S):
            assert "no answer within 250 ms" in message(await served.get("/documents/a", 503), 503)
        assert two.document_ids == ["b", "a"]


async def test_a_document_that_may_be_in_a_shard_nobody_has_is_503_and_not_404() -> None:
    async with gateway(FakeWorker(2, 0)) as served:
        assert "shard 1" in message(await served.get("/documents/a", 503), 503)


async def test_a_document_of_a_shard_that_has_just_moved_is_found_at_its_new_worker() -> None:
    one, two = FakeWorker(2, 0, 1), FakeWorker(2)
    two.documents["a"] = stored("a", shard=1)
    async with gateway(one, two) as served:
        two.shards[1] = said()
        del one.shards[1]
        assert (await served.get("/documents/a"))["id"] == "a"


async def test_without_any_worker_a_document_is_503() -> None:
    async with gateway() as served:
        assert "any index worker" in message(await served.get("/documents/a", 503), 503)


async def test_a_first_request_for_a_document_finds_a_worker_that_came_later() -> None:
    worker = FakeWorker(1, 0)
    worker.documents["a"] = stored("a")
    async with gateway() as served:
        await worker.start()
        served.registry.known = [worker.url]
        assert (await served.get("/documents/a"))["id"] == "a"
    await worker.stop()


# --- status and health


async def test_the_status_shows_every_shard_of_every_replica_and_the_missing_ones() -> None:
    one, two = FakeWorker(3, 0, 1, replica="0"), FakeWorker(3, 0, replica="1")
    one.shards[0] = said(hit("a", 1), hit("b", 1))
    one.states[1] = "loading"
    async with gateway(one, two) as served:
        answer = await served.get("/status")
        rows = [(row["shard"], row["replica"], row["state"]) for row in answer["shards"]]
        assert sorted(rows, key=str) == [
            (0, "0", "ready"),
            (0, "1", "ready"),
            (1, "0", "loading"),
            (2, None, "missing"),
        ]
        assert (answer["as_of"], answer["staleness_ms"]) == (None, None)  # a shard is missing: nobody can say
        assert answer["services"] == {"redis": "ok"}
        assert answer["collection"] == "documents"
        await two.stop()
        await served.directory.refresh()
        rows = [(row["shard"], row["replica"], row["state"]) for row in (await served.get("/status"))["shards"]]
        assert (0, "1", "unreachable") in rows


async def test_ready_means_that_every_shard_can_be_searched() -> None:
    worker = FakeWorker(2, 0)
    async with gateway(worker) as served:
        assert (await served.get("/readyz", 503))["reason"] == "shard 1 missing"
        worker.shards[1] = said()
        worker.states[1] = "loading"
        await served.directory.refresh()
        assert (await served.get("/readyz", 503))["reason"] == "shard 1 loading"
        worker.states[1] = "ready"
        await served.directory.refresh()
        assert await served.get("/readyz") == {"ready": True, "reason": None, "services": {"redis": "ok"}}
    async with gateway() as served:
        assert (await served.get("/readyz", 503))["reason"] == "no index worker is known"
        assert await served.get("/healthz") == {"status": "ok"}


async def test_metrics_count_requests_by_route_and_status_and_partial_answers() -> None:
    async with gateway(FakeWorker(2, 0)) as served:
        await served.search()
        await served.refused(400, k=0)
        await served.get("/documents/a%2Fb", 503)
        await served.get("/nothing/here", 404)
        async with served.client.get("/metrics") as response:
            text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'headrace_http_requests_total{route="/search",status="200"} 1.0' in text
        assert 'headrace_http_requests_total{route="/search",status="400"} 1.0' in text
        assert 'headrace_http_requests_total{route="/documents/{id}",status="503"} 1.0' in text
        assert 'headrace_http_requests_total{route="other",status="404"} 1.0' in text
        assert "headrace_search_partial_total 1.0" in text


async def test_an_unexpected_failure_is_500_without_details(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(FakeWorker(1, 0)) as served:
        monkeypatch.setattr("app.gateway.server.search_answer", lambda *_: 1 // 0)
        assert message(await served.search(500), 500) == "internal error; the gateway's log has the details"
    assert "ZeroDivisionError" in caplog.text


# --- the page and the description


@pytest.mark.parametrize("path", ["/", "/docs", "/favicon.ico", *(f"/static/{item.name}" for item in STATIC.iterdir())])
async def test_the_page_is_served_and_may_load_only_what_is_ours(path: str) -> None:
    async with gateway() as served, served.client.get(path) as response:
        body = await response.read()
        assert (response.status, bool(body)) == (200, True)
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["index.html", "docs.html"])
def test_the_pages_hold_no_inline_script_or_style_and_name_only_files_that_are_there(name: str) -> None:
    """The policy would refuse them, without a word to the reader."""
    page = (STATIC / name).read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|https?://(?!www\.w3\.org)", page)
    files = re.findall(r"(?:src|href)=\"/static/([^\"]+)\"", page)
    assert files
    assert all((STATIC / file).is_file() for file in files)


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/nope"]
)
async def test_nothing_outside_the_static_files_is_served(path: str) -> None:
    async with gateway() as served, served.client.get(URL(path, encoded=True)) as response:
        assert response.status in (403, 404)
        assert b"Gateway" not in await response.read()
        assert "Content-Security-Policy" in response.headers


async def test_another_method_is_405() -> None:
    async with gateway() as served:
        answer = await served.get("/search", 405)
        assert "GET /search" in message(answer, 405)


def _references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_references, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*(_references(item) for item in value.values()))


async def test_the_description_is_complete_and_every_reference_leads_somewhere() -> None:
    async with gateway() as served:
        answer = await served.get("/openapi.json")
        assert served.client.app is not None
        routes = {
            (resource.canonical, route.method.lower())
            for resource in served.client.app.router.resources()
            for route in resource
            if route.method != "HEAD" and not resource.canonical.startswith("/static")
        }
    assert answer["openapi"].startswith("3.1")
    assert answer["info"]["title"] == "Headrace"
    described = {(path, method) for path, methods in answer["paths"].items() for method in methods}
    pages = {("/", "get"), ("/docs", "get"), ("/favicon.ico", "get"), ("/openapi.json", "get")}
    assert described == routes - pages
    schemas = answer["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in _references(answer)} <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    for path, methods in answer["paths"].items():
        named = set(re.findall(r"{(\w+)}", path))
        for operation in methods.values():
            places = {item["name"]: item["in"] for item in operation.get("parameters", [])}
            assert {name for name, place in places.items() if place == "path"} == named
            assert "200" in operation["responses"]


def test_the_examples_of_the_description_are_requests_that_are_taken() -> None:
    content = openapi("1")["paths"]["/search"]["post"]["requestBody"]["content"]["application/json"]
    asked = [SearchRequest.model_validate(example["value"]) for example in content["examples"].values()]
    assert [request.resolved_mode for request in asked] == ["hybrid", "keyword", "vector"]


async def test_status_says_that_the_lag_is_not_known_where_kafka_was_not_asked() -> None:
    async with gateway(FakeWorker(2, 0, 1), lag_interval_s=0) as served:
        lag = (await served.get("/status"))["lag"]
        nothing = {"0": {"records": None, "seconds": None}, "1": {"records": None, "seconds": None}}
        assert (lag["known"], lag["embed"], lag["index"], lag["dead_letters"]) == (False, nothing, nothing, None)
        assert lag["reason"] == "HEADRACE_LAG_INTERVAL_S=0"


async def test_of_two_workers_that_tell_of_a_shard_the_one_that_answers_says_where_it_reads_on() -> None:
    old, new, other = FakeWorker(1, 0), FakeWorker(1, 0), FakeWorker(1, 0, replica="b")
    old.told = {0: {"next_offset": 90}}
    new.told = {0: {"next_offset": 40}}
    other.told = {0: {"next_offset": None}}
    async with gateway(old, new, other) as served:
        await old.stop()
        await served.directory.refresh()
        assert served.directory.next_offsets() == {"0": {0: 40}, "b": {0: 0}}


async def test_of_two_workers_that_answer_for_a_replica_the_one_that_is_least_far_counts() -> None:
    old, new = FakeWorker(1, 0), FakeWorker(1, 0)
    old.told, new.told = {0: {"next_offset": 40}}, {0: {"next_offset": 90}}
    async with gateway(old, new) as served:
        assert served.directory.next_offsets() == {"0": {0: 40}}


@pytest.mark.parametrize("redis", [True, False])
async def test_the_lag_of_a_replica_that_died_is_told_for_a_minute(redis: bool) -> None:
    """Whether its entry in Redis has expired, after 5 s, or its URL stands in the settings."""
    one, two = FakeWorker(1, 0, replica="a"), FakeWorker(1, 0, replica="b")
    one.told[0], two.told[0] = {"next_offset": 9}, {"next_offset": 4}
    await one.start()
    await two.start()
    async with gateway(redis=redis, index_urls=() if redis else (one.url, two.url)) as served:
        if redis:
            served.registry.known = [one.url, two.url]
            await served.directory.refresh()
        assert served.directory.next_offsets() == {"a": {0: 9}, "b": {0: 4}}
        await two.stop()
        if redis:
            served.registry.known = [one.url]
        await served.directory.refresh()
        assert served.directory.next_offsets() == {"a": {0: 9}, "b": {0: 4}}
        now = served.directory._clock()
        served.directory._clock = lambda: now + 61
        await served.directory.refresh()
        assert served.directory.next_offsets() == {"a": {0: 9}}
    await one.stop()
