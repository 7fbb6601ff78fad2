"""`headrace receipt`: the proof for people, and the exit status for scripts."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli.main import headrace
from schemas.errors import GatewayUnavailable, NotFound
from schemas.receipt import Receipt

ANSWER: dict[str, Any] = {
    "id": "a/b",
    "state": "deleted",
    "version": 3,
    "source": {"partition": 1, "offset": 8},
    "event_time": "2026-11-21T01:50:37.874Z",
    "replicas": {
        "0": {
            "state": "deleted",
            "has_it": True,
            "source_offset": 8,
            "applied_offset": 9,
            "indexed_time": "2026-11-21T01:50:38.000Z",
            "as_of": "2026-11-21T01:50:39.000Z",
            "worker": "http://one",
        }
    },
    "missing_replicas": [],
    "everywhere_at": "2026-11-21T01:50:38.000Z",
    "took_ms": 126,
    "trace_id": "a" * 32,
}


def printed(monkeypatch: pytest.MonkeyPatch, answer: Any, *flags: str) -> tuple[Result, str]:
    asked: list[str] = []

    async def ask(_session: Any, url: str, method: str, path: str, **_: Any) -> Any:
        asked.append(f"{method} {url}{path}")
        if isinstance(answer, Exception):
            raise answer
        return Receipt.model_validate(answer, strict=True).model_dump()

    monkeypatch.setattr("app.gateway.remote.ask", ask)
    arguments = ["receipt", "a/b", "--url", "http://g", *flags]
    result = CliRunner().invoke(headrace, arguments, standalone_mode=False, env={"COLUMNS": "200"})
    assert asked == ["GET http://g/documents/a%2Fb/receipt"]
    return result, " ".join(result.output.split())


def test_what_is_everywhere_is_status_0_and_says_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    result, text = printed(monkeypatch, ANSWER)
    assert result.return_value == 0
    assert "a/b is deleted, version 3" in text
    assert "partition 1, offset 8" in text
    assert "0 deleted (offset 8) 2026-11-21T01:50:38.000Z 9" in text
    assert "invisible on every known replica since 2026-11-21T01:50:38.000Z, 126 ms after the event" in text


def test_what_is_not_everywhere_is_status_1_and_names_who_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [{"replica": "b", "worker": "http://two", "reason": "no answer within 1000 ms"}]
    result, text = printed(monkeypatch, ANSWER | {"missing_replicas": missing, "everywhere_at": None, "took_ms": None})
    assert result.return_value == 1
    assert "b does not say no answer within 1000 ms http://two" in text
    assert "not on every known replica yet" in text
    result, text = printed(monkeypatch, ANSWER | {"everywhere_at": None, "took_ms": None}, "--json")
    assert (result.return_value, '"everywhere_at": null' in text) == (1, True)


def test_an_id_that_nobody_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = printed(monkeypatch, NotFound("no replica has ever held", "a/b"))
    assert isinstance(result.exception, NotFound)


def test_what_another_id_has_is_no_receipt_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for told in (NotFound("no replica has ever held", "b"), ANSWER | {"id": "b"}):
        result, _ = printed(monkeypatch, told)
        assert isinstance(result.exception, GatewayUnavailable)
