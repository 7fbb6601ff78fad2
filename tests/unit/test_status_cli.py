"""`headrace status`: what it prints, its exit status, and what it says where nobody answers."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from app.cli.status import status
from app.embed.status import EmbedStatus
from app.freshness.objective import Objective
from app.freshness.recent import RecentDocuments, whole
from app.local.process import free_port
from app.observe.http import HttpThread, health_routes, json_response, listen
from app.observe.metrics import GatewayMetrics
from schemas.errors import ServiceMissing
from tests.unit.embed.parts import Parts, event
from tests.unit.freshness.test_recent import stages

SHARD = {
    "shard": 0,
    "replica": "0",
    "worker": "http://127.0.0.1:8081",
    "state": "ready",
    "paused": None,
    "reason": None,
    "documents": 1234,
    "chunks": 2345,
    "applied_offset": 9,
    "as_of": "2026-11-21T01:50:33.127Z",
    "staleness_ms": 38,
}


def freshness(met: int = 0, missed: int = 0, documents: int = 0) -> dict[str, Any]:
    """What a gateway says after documents that took 80 ms each, and so many of the last hour."""
    recent, objective = RecentDocuments(), Objective(1000, 0.99)
    for _ in range(documents):
        recent.saw(stages(80, time.time_ns()))
    objective.count(met, missed)
    return whole([("0", recent.told(objective))], 1000, 0.99)


ANSWER: dict[str, Any] = {
    "collection": "documents",
    "ready": True,
    "reason": None,
    "model": "m@1",
    "documents": 1234,
    "chunks": 2345,
    "as_of": "2026-11-21T01:50:33.127Z",
    "staleness_ms": 38,
    "freshness_objective_ms": 1000,
    "freshness": freshness(995, 5, documents=200),
    "checks": {"probes": {"seen": 12}, "drift": 0},
    "shards": [SHARD],
    "embed_workers": [],
    "recent": [],
    "services": {"redis": "ok"},
    "lag": {
        "known": True,
        "reason": None,
        "embed": {"0": {"records": 1200, "seconds": 3.25}, "1": {"records": 34, "seconds": 71.5}},
        "index": {"0": {"records": 0, "seconds": 0.0}, "1": {"records": None, "seconds": None}},
        "dead_letters": 2,
    },
}


def worker(reason: str | None = None) -> dict[str, Any]:
    """What a real worker tells after three chunks, one of them from a cache."""
    parts = Parts()
    parts.process(event(0, "a", "x"), event(1, "b", "y"), event(2, "c", "x"))
    return EmbedStatus("here:8082", parts.embedder, parts.link, parts.metrics, lambda: reason, lambda: [0, 1]).body()


class Server:
    """Answers /status with whatever is in `answer`, and /metrics as a gateway does that was never asked."""

    def __init__(self, port: int = 0) -> None:
        self.answer: Any = copy.deepcopy(ANSWER)
        self.metrics = GatewayMetrics()
        bound = listen("127.0.0.1", port, "a test")
        application = web.Application()
        application.add_routes([web.get("/status", self._status)])
        application.add_routes(health_routes(lambda: None, dict, self.metrics.registry))
        self._http = HttpThread(application, bound)
        self._http.start()
        self.port = self._http.port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._http.close()

    async def _status(self, _: web.Request) -> web.Response:
        if isinstance(self.answer, bytes):
            return web.Response(body=self.answer)
        return json_response(self.answer)


@pytest.fixture
def gateway() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An embed worker's own HTTP, at the address of the settings."""
    server = Server()
    monkeypatch.setenv("HEADRACE_EMBED_PORT", str(server.port))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _nobody_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_EMBED_PORT", str(free_port()))


def run(server: Server, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        status, ["--url", server.url, *arguments], standalone_mode=False, catch_exceptions=False
    )


def test_everything_ready_is_shown_with_its_numbers_and_status_0(gateway: Server) -> None:
    gateway.answer["embed_workers"] = [worker()]
    result = run(gateway)
    assert result.return_value == 0
    for words in (
        "documents ready",
        "model m@1, Redis ok",
        "1,234 documents, 2,345 chunks, as of 2026-11-21T01:50:33.127Z, 38 ms stale",
        "http://127.0.0.1:8081",
        "embed worker here:8082 ready",
        "hashing",
        "3 embed",
        "33.3% hits: 1 hits, 2 misses (2 model, 1 batch)",
        "not configured, 0.0 s spent, 0 failures",
        "on average 3.0 events",
        "objective kept: 99.50 % within 1 s, wanted 99 %  burn 5 min 0.5  1 h 0.5",
        "the last 200 documents",
        "embed  1,234 records wait, the first for 71.5 s in partition 1\nindex  0 records wait\ndead letters: 2\n",
    ):
        assert words in result.output, words
    assert "in the way" not in result.output


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ready": False, "reason": "shard 1 missing"}, "shard 1 missing"),
        ({"shards": [SHARD | {"paused": "no room"}]}, "shard 0 of replica 0 paused: no room"),
        ({"embed_workers": []}, "no embed worker runs"),
        ({"embed_workers": [worker("EmbedderUnavailable: gone")]}, "embed worker here:8082: EmbedderUnavailable: gone"),
    ],
)
def test_whatever_is_in_the_way_is_named_with_status_1(gateway: Server, changes: dict[str, Any], told: str) -> None:
    gateway.answer |= {"embed_workers": [worker()]} | changes
    result = run(gateway)
    assert result.return_value == 1
    assert told in result.output.partition("in the way")[2]
    assert "documents not ready" in result.output


def test_json_is_the_answer_as_it_was_given_with_the_same_status(gateway: Server) -> None:
    for ready, expected in ((True, 0), (False, 1)):
        gateway.answer |= {"embed_workers": [worker()], "reason": None if ready else "shard 1 missing"}
        result = run(gateway, "--json")
        assert (orjson.loads(result.output), result.return_value) == (gateway.answer, expected)


@pytest.mark.parametrize(
    ("five_minutes", "hour", "told", "status_if_held_to_it"),
    [(0.5, 0.5, "kept: ", 0), (3, 0.5, "AT RISK", 0), (0.5, 3, "kept again", 0), (3, 3, "MISSED", 1)],
)
def test_the_objective_is_told_and_is_a_reason_for_status_1_only_where_it_is_asked_for(
    gateway: Server, five_minutes: float, hour: float, told: str, status_if_held_to_it: int
) -> None:
    gateway.answer["embed_workers"] = [worker()]
    for seconds, burn in (("300", five_minutes), ("3600", hour)):
        gateway.answer["freshness"]["windows"][seconds]["burn"] = burn
    result = run(gateway)
    assert (told in result.output, result.return_value) == (True, 0)
    assert run(gateway, "--objective").return_value == status_if_held_to_it


def test_where_no_document_came_nothing_is_said_of_their_times(gateway: Server) -> None:
    gateway.answer |= {"embed_workers": [worker()], "freshness": freshness()}
    result = run(gateway, "--objective")
    assert "objective no document in the last hour: within 1 s, wanted 99 %" in result.output
    assert "no document became visible in the last five minutes" in result.output
    assert result.return_value == 0


def test_a_shard_that_nobody_has_is_shown(gateway: Server) -> None:
    unknown = dict.fromkeys(("replica", "worker", "paused", "reason", "applied_offset", "as_of", "staleness_ms"))
    missing = {"shard": 1, "state": "missing", "documents": 0, "chunks": 0} | unknown
    gateway.answer |= {"shards": [SHARD, missing], "reason": "shard 1 missing", "as_of": None, "staleness_ms": None}
    result = run(gateway)
    assert "nobody" in result.output
    assert "of unknown age" in result.output


def test_a_lag_that_is_not_known_is_said_not_to_be(gateway: Server) -> None:
    nothing = {"0": {"records": None, "seconds": None}}
    lag = {"known": False, "reason": "no Kafka at k:9092", "embed": nothing, "index": nothing, "dead_letters": None}
    gateway.answer["lag"] = lag
    assert "lag: not known; no Kafka at k:9092\n" in run(gateway).output
    gateway.answer["lag"] = lag | {"known": True}
    assert "embed  not known: no worker tells it\n" in run(gateway).output
    del gateway.answer["lag"]
    assert "lag: this gateway does not tell it\n" in run(gateway).output


def test_without_redis_the_embed_worker_of_this_machine_is_asked(gateway: Server, local: Server) -> None:
    gateway.answer["embed_workers"] = None
    local.answer = worker()
    result = run(gateway)
    assert "the gateway knows no embed workers, since it has no Redis; this one is on this machine" in result.output
    assert "embed worker here:8082 ready" in result.output
    assert result.return_value == 0
    local.answer = worker("Kafka is away")
    assert run(gateway).return_value == 1


def test_without_redis_and_without_a_worker_here_nothing_is_claimed_of_embed_workers(gateway: Server) -> None:
    gateway.answer["embed_workers"] = None
    result = run(gateway)
    assert "since it has no Redis; none answers on this machine" in result.output
    assert result.return_value == 0


def test_a_gateway_that_is_down_is_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceMissing, match=rf"no gateway at {url} \(--url\): .*headrace serve"):
        CliRunner().invoke(status, ["--url", url + "/"], standalone_mode=False, catch_exceptions=False)


@pytest.mark.parametrize("answer", [b"<html>", b"[1]", {"status": "ok"}, b""])
def test_what_is_no_gateway_is_said_to_be_none(gateway: Server, answer: Any) -> None:
    gateway.answer = answer
    with pytest.raises(ServiceMissing, match="no gateway at"):
        run(gateway)
