"""Trace headers, freshness and its traces, logs, metrics, and the small server beside a role."""

from __future__ import annotations

import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from app.observe.http import HttpThread, health_routes, listen
from app.observe.logs import set_up_logs
from app.observe.metrics import EmbedMetrics, GatewayMetrics, IndexMetrics, exposition
from app.observe.tracing import Tracing, format_traceparent, new_traceparent, parse_traceparent, trace_id_of
from app.settings import Settings
from schemas.errors import ServiceMissing

TRACE, SPAN = "a" * 32, "b" * 16
MS = 1_000_000


def settings(**changed: Any) -> Settings:
    return Settings(_env_file=None, **changed)


# --- trace headers


def test_a_fresh_traceparent_reads_back_and_is_never_the_same() -> None:
    one, other = new_traceparent(), new_traceparent()
    context = parse_traceparent(one)
    assert context is not None
    assert format_traceparent(context) == one
    assert trace_id_of(one) != trace_id_of(other)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        f"00-{TRACE}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
    ],
)
def test_a_malformed_traceparent_is_as_if_there_were_none(header: str | None) -> None:
    assert (trace_id_of(header), parse_traceparent(header)) == (None, None)


def test_a_later_version_of_the_header_is_understood() -> None:
    assert trace_id_of(f"cc-{TRACE}-{SPAN}-01-what-the-future-is-like") == TRACE


@given(st.text())
def test_any_header_is_read_without_an_error(header: str) -> None:
    assert (trace_id_of(header) is None) == (parse_traceparent(header) is None)


def test_without_an_endpoint_nothing_is_traced() -> None:
    tracing = Tracing(settings(otlp_endpoint=None, trace_one_in=1), "embed")
    assert not tracing.enabled
    assert not tracing.wants(f"00-{TRACE}-{SPAN}-01")
    tracing.close()


# --- logs


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `set_up_logs` changes of the process is put back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {
        name: logging.getLogger(name).level for name in ("aiokafka", "faust", "mode", "consumers", "aiohttp.access")
    }
    monkeypatch.setattr(logging, "captureWarnings", lambda capture: None)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_text_lines_name_level_and_logger_and_keep_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(settings(log_level="info"))
    logging.getLogger("headrace.test").debug("unheard")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("headrace.test").exception("failed %d", 7)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("error   headrace.test: failed 7")
    assert lines[-1] == "ValueError: no"
    assert "unheard" not in "".join(lines)


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(settings(log_format="json"))
    logging.getLogger("headrace.test").warning("a\nb %s", "ü")
    (line,) = capsys.readouterr().err.splitlines()
    fields = orjson.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == ("warning", "headrace.test", "a\nb ü")


def test_libraries_that_talk_much_are_silent_unless_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(settings())
    logging.getLogger("aiokafka").error("broken connection")
    assert capsys.readouterr().err == ""


# --- metrics and the small server


@pytest.mark.parametrize("metrics", [EmbedMetrics, IndexMetrics, GatewayMetrics])
def test_every_metric_is_ours_has_a_meaning_and_its_unit_in_its_name(metrics: Any) -> None:
    text = exposition(metrics().registry)[0].decode()
    helps = [line.split(" ", 3)[2:] for line in text.splitlines() if line.startswith("# HELP")]
    assert helps
    assert all(name.startswith("headrace_") and meaning for name, meaning in helps)
    assert metrics().registry is not metrics().registry


def test_a_role_answers_about_itself_and_stops() -> None:
    trouble: list[str | None] = ["still loading"]
    application = web.Application()
    application.add_routes(health_routes(lambda: trouble[0], lambda: {"redis": "ok"}, EmbedMetrics().registry))
    server = HttpThread(application, listen("127.0.0.1", 0, "the test"))
    server.start()
    port = server.port
    base = f"http://127.0.0.1:{port}"

    def get(path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(base + path, timeout=5) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    try:
        assert get("/healthz") == (200, b'{"status":"ok"}')
        status, body = get("/readyz")
        assert (status, orjson.loads(body)) == (
            503,
            {"ready": False, "reason": "still loading", "services": {"redis": "ok"}},
        )
        trouble[0] = None
        assert get("/readyz")[0] == 200
        assert b"headrace_embed_batch_seconds" in get("/metrics")[1]
    finally:
        server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


async def test_a_scraper_that_asks_for_openmetrics_gets_exemplars_and_others_plain_text() -> None:
    metrics = IndexMetrics()
    metrics.latency.observe(0.2, {"trace_id": TRACE})
    application = web.Application()
    application.add_routes(health_routes(lambda: None, dict, metrics.registry))
    async with TestClient(TestServer(application)) as client:
        openmetrics = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        for accept, content_type, exemplars in (
            (openmetrics, "application/openmetrics-text", 1),
            ("*/*", "text/plain", 0),
        ):
            answer = await client.get("/metrics", headers={"Accept": accept})
            text = await answer.text()
            assert answer.content_type == content_type
            assert text.count(f'# {{trace_id="{TRACE}"}} 0.2') == exemplars
            assert text.endswith("# EOF\n") == bool(exemplars)


def test_a_taken_port_is_named_with_who_wanted_it() -> None:
    with listen("127.0.0.1", 0, "the first") as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ServiceMissing, match=rf"the gateway cannot listen on 127\.0\.0\.1:{port}: "):
            listen("127.0.0.1", port, "the gateway")
