"""HeadraceClient against a gateway that says what a test wants."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

import orjson
import pytest
from aiohttp import web

from app.kafka.producer import Position
from app.observe.http import HttpThread, json_response, listen
from app.settings import Settings
from producers import HeadraceClient
from schemas.errors import BadRequest, GatewayUnavailable, InvalidChange, NotApplied, NotServing, WaitTimeout
from tests.unit.producers.broker import changes


class FakeGateway:
    """asked: paths and bodies. says: answers in turn, the last one for ever. hangs: it answers nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.says: list[tuple[int, Any]] = [(200, {})]
        self.hangs = False

    async def answer(self, request: web.Request) -> web.Response:
        content = await request.read()
        self.asked.append((request.raw_path, orjson.loads(content) if content else None))
        if self.hangs:
            await asyncio.sleep(60)
        status, body = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        return json_response(body, status)

    def refuses(self, status: int, message: str = "no", **facts: str) -> tuple[int, Any]:
        return status, {"error": {"status": status, "message": message} | facts}


@pytest.fixture
def fake() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def client(fake: FakeGateway, settings: Settings) -> Iterator[HeadraceClient]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", fake.answer)
    server = HttpThread(application, listen("127.0.0.1", 0, "the fake"))
    server.start()
    try:
        with HeadraceClient(f"http://127.0.0.1:{server.port}/", settings=settings) as client:
            yield client
    finally:
        server.close()


def test_a_change_is_published_and_waited_for_where_it_was_written(
    client: HeadraceClient, fake: FakeGateway, settings: Settings
) -> None:
    done = client.publish_and_wait("a", "text", title="t", metadata={"n": 1}, version=3)
    gone = client.delete_and_wait("a", replicas="any")
    (path, first), (_, second) = fake.asked
    assert (path, first["min_offsets"], first["replicas"]) == ("/wait", done.min_offsets, "all")
    assert done.min_offsets == {str(done.position.partition): done.position.offset}
    assert (second["min_offsets"], second["replicas"]) == (gone.min_offsets, "any")
    assert 0 < first["timeout_ms"] <= 10_000
    assert (len(done.trace_id), done.trace_id != gone.trace_id) == (32, True)
    assert changes(settings, 2)["a"].op == "delete"


def test_positions_are_waited_for_together_and_nothing_is_no_wait(client: HeadraceClient, fake: FakeGateway) -> None:
    places = [Position("t", 0, 4), Position("t", 0, 7), Position("t", 1, 2)]
    client.wait(places)
    client.wait(places[2])
    client.wait({"3": 1})
    assert client.wait([]) == {}
    assert [body["min_offsets"] for _, body in fake.asked] == [{"0": 7, "1": 2}, {"1": 2}, {"3": 1}]


def test_a_gateway_that_is_starting_is_asked_again(client: HeadraceClient, fake: FakeGateway) -> None:
    fake.says = [fake.refuses(503), fake.refuses(502), (200, {"took_ms": 1})]
    assert client.wait({"0": 1}, 60) == {"took_ms": 1}


def test_what_is_not_applied_in_time_says_who_is_behind_and_may_be_waited_for_again(
    client: HeadraceClient, fake: FakeGateway
) -> None:
    client.publish_and_wait("a", "the first one, which connects", timeout_s=60)
    fake.says = [fake.refuses(504, "shard 0 has not applied offset 1")]
    with pytest.raises(NotApplied, match="published, but shard 0 has not applied offset 1") as caught:
        client.publish_and_wait("a", "text", timeout_s=2)
    fake.says = [(200, {"took_ms": 1})]
    assert client.wait(caught.value.min_offsets) == {"took_ms": 1}


def test_a_gateway_that_hangs_is_waited_for_two_seconds_more_and_what_it_was_to_wait_for_is_told(
    client: HeadraceClient, fake: FakeGateway
) -> None:
    fake.hangs = True
    started = time.monotonic()
    with pytest.raises(GatewayUnavailable, match="no answer within") as caught:
        client.wait({"0": 1}, 0.5)
    assert 0.5 + 1 < time.monotonic() - started < 0.5 + 2 + 1  # a worker's second; some for a slow machine
    assert caught.value.min_offsets == {"0": 1}


def test_each_status_is_the_error_that_the_gateway_meant(client: HeadraceClient, fake: FakeGateway) -> None:
    for status, kind in ((400, BadRequest), (503, NotServing), (504, WaitTimeout), (500, GatewayUnavailable)):
        fake.says = [fake.refuses(status)]
        with pytest.raises(kind, match="no"):
            client.search("x", k=3)
    assert fake.asked[0] == ("/search", {"query": "x", "k": 3})
    fake.says = [(200, ["not an object"])]
    with pytest.raises(GatewayUnavailable, match="something else"):
        client.search(vector=[1.0])


def test_documents_and_receipts_are_none_where_there_is_none(client: HeadraceClient, fake: FakeGateway) -> None:
    fake.says = [(200, {"id": "a/b"}), (200, {"id": "a/b"}), fake.refuses(404, document_id="x")]
    assert client.document("a/b") == client.receipt("a/b") == {"id": "a/b"}
    assert client.document("x") is None
    assert client.receipt("x") is None
    assert [path for path, _ in fake.asked[:2]] == ["/documents/a%2Fb", "/documents/a%2Fb/receipt"]


@pytest.mark.parametrize(
    ("id", "path"), [(".", "/documents/%2E"), ("..", "/documents/%2E%2E"), ("...", "/documents/...")]
)
def test_an_id_of_dots_is_asked_for_and_not_the_folder_above(
    client: HeadraceClient, fake: FakeGateway, id: str, path: str
) -> None:
    fake.says = [(200, {"id": id})]
    assert client.document(id) == client.receipt(id) == {"id": id}
    assert [asked for asked, _ in fake.asked] == [path, f"{path}/receipt"]


def test_a_404_of_something_else_is_no_proof_that_there_is_no_document(
    client: HeadraceClient, fake: FakeGateway
) -> None:
    for ask in (client.document, client.receipt):
        fake.says = [fake.refuses(404, "GET /wrong/documents/a: Not Found")]
        with pytest.raises(GatewayUnavailable, match=r"has no GET /documents/a.*Check the URL"):
            ask("a")
        for told in (fake.refuses(404, document_id="a/b"), (200, {"id": "a/b"})):  # a proxy that merges slashes
            fake.says = [told]
            with pytest.raises(GatewayUnavailable, match=r"asked for the document 'a//b', .* answers for 'a/b'"):
                ask("a//b")
    with pytest.raises(BadRequest, match="empty"):
        client.document("")


async def test_from_asyncio_it_is_called_in_a_thread(client: HeadraceClient, fake: FakeGateway) -> None:
    fake.says = [(200, {"took_ms": 1})]
    done = await asyncio.gather(*(asyncio.to_thread(client.publish_and_wait, f"a{n}", "text") for n in range(5)))
    assert all(item.waited == {"took_ms": 1} for item in done)


def test_what_can_never_be_indexed_is_refused_before_it_is_sent_and_a_closed_client_says_so(
    client: HeadraceClient, fake: FakeGateway
) -> None:
    with pytest.raises(InvalidChange):
        client.publish_and_wait("", "text")
    client.close()
    client.close()
    for call in (lambda: client.search("x"), lambda: client.delete_and_wait("a"), lambda: client.wait({"0": 1})):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert fake.asked == []


def test_a_call_that_meets_close_ends(client: HeadraceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, end = asyncio.run_coroutine_threadsafe, client._end
    submitting, ended = threading.Event(), threading.Event()

    def submit_late(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
        if threading.current_thread() is not threading.main_thread():
            submitting.set()
            ended.wait(0.5)
        return submit(work, loop)

    async def end_and_let_it_submit() -> None:
        await end()
        ended.set()
        time.sleep(0.2)  # noqa: ASYNC251 - what is submitted now is behind the end in the loop's queue

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", submit_late)
    monkeypatch.setattr(client, "_end", end_and_let_it_submit)

    def call() -> None:
        with suppress(CancelledError):
            client.search("x")

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    assert submitting.wait(5)
    client.close()
    caller.join(5)
    assert not caller.is_alive()
