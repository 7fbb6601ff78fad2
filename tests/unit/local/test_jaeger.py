"""The local Jaeger: started, asked, stopped; and what is said where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from app.local.jaeger import LocalJaeger, find_jaeger
from app.local.process import listens
from schemas.errors import ServiceMissing
from tests.services_local import is_alive, jaeger_or_skip


@pytest.mark.jaeger
def test_it_answers_on_loopback_and_nothing_is_left_after_stop() -> None:
    jaeger_or_skip()
    with LocalJaeger() as jaeger:
        with httpx.Client(trust_env=False) as http:
            assert not http.get(f"{jaeger.url}/api/services").json()["data"]
        assert listens("127.0.0.1", jaeger.otlp_port)
        pid = jaeger.pid
    assert pid is not None
    assert not is_alive(pid)
    assert not listens("127.0.0.1", jaeger.query_port)


@pytest.mark.jaeger
def test_a_taken_port_is_an_error_that_says_so() -> None:
    jaeger_or_skip()
    with LocalJaeger() as jaeger:
        other = LocalJaeger(otlp_port=jaeger.otlp_port)
        with pytest.raises(ServiceMissing, match="address already in use"):
            other.start()
        assert other.pid is None


def test_where_it_was_not_built_the_error_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", os.defpath)
    assert find_jaeger() is None
    with pytest.raises(ServiceMissing, match=r"deploy/setup\.sh jaeger"):
        LocalJaeger()
