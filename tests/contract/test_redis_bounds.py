"""What a real Redis that is slow, trickles, or cannot be reached costs: a bounded time, then it is left alone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from app.local.redis import LocalRedis, find_redis_server
from app.redis_link import RedisLink
from app.settings import Settings
from tests.services_local import redis_or_skip
from tests.slow_proxy import SlowProxy

HANG_GUARD_S = 5.0
BIG = b"x" * 5000


@pytest.fixture
def proxy(shared_redis: LocalRedis) -> Iterator[SlowProxy]:
    with SlowProxy(shared_redis.port) as opened:
        yield opened


def link_to(url: str, **changed: int) -> RedisLink:
    return RedisLink(Settings(_env_file=None, redis_url=url, **({"redis_timeout_ms": 1000} | changed)))


def ping(link: RedisLink) -> Any:
    return link.call(lambda client: client.ping())


@pytest.mark.redis
def test_answers_that_are_each_in_time_stop_when_they_have_used_up_the_time_of_their_batch(proxy: SlowProxy) -> None:
    link = link_to(proxy.url, redis_batch_ms=500)
    assert ping(link)  # connected: that takes several answers
    proxy.late_s, asked = 0.2, proxy.answers
    started = time.monotonic()
    with link.batch() as batch:
        answers = [ping(link) for _ in range(50)]
    assert time.monotonic() - started < HANG_GUARD_S  # 50 answers would take 10 s
    assert answers[0] is True
    assert answers[3:] == [None] * 47  # at most two are whole, and the third is cut off
    assert proxy.answers - asked <= 3
    assert batch.spent_s >= 0.4
    assert (link.state, link.failures) == ("unavailable", 1)
    link.close()


@pytest.mark.redis
def test_a_server_that_trickles_is_given_up_when_the_call_has_had_its_time(proxy: SlowProxy) -> None:
    link = link_to(proxy.url, redis_timeout_ms=200)
    assert link.call(lambda client: client.set("big", BIG, ex=60))
    proxy.drop_s = 0.02  # each byte in time, all of them 100 s
    started = time.monotonic()
    assert link.mget([b"big"]) == [None]
    assert time.monotonic() - started < HANG_GUARD_S
    assert link.failures == 1
    link.close()


@pytest.mark.redis
def test_a_call_ends_with_its_batch_though_its_own_time_is_longer(proxy: SlowProxy) -> None:
    link = link_to(proxy.url, redis_timeout_ms=60_000, redis_batch_ms=100)
    assert ping(link)
    proxy.late_s = 60.0
    started = time.monotonic()
    with link.batch():
        assert [ping(link), ping(link)] == [None, None]
    assert time.monotonic() - started < HANG_GUARD_S
    assert link.failures == 1
    link.close()


@pytest.mark.redis
def test_a_paused_redis_costs_a_batch_its_time_once_and_is_taken_back_when_it_answers() -> None:
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as server:
        link = link_to(server.url, redis_timeout_ms=100, redis_batch_ms=150)
        assert ping(link)
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLIENT", "PAUSE", 1000, "ALL")
        with link.batch() as batch:
            assert [ping(link) for _ in range(20)] == [None] * 20
        assert batch.calls == 1
        deadline = time.monotonic() + HANG_GUARD_S
        while link.state != "ok":
            assert time.monotonic() < deadline
            with link.batch():
                ping(link)
            threading.Event().wait(0.02)
        link.close()


def test_a_host_name_that_nobody_resolves_does_not_hold_up_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """getaddrinfo knows no timeout: where the name service is gone as well, it takes many seconds."""
    answered = threading.Event()

    def resolve(*_: Any, **__: Any) -> Any:
        assert answered.wait(60)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    link = link_to("redis://nowhere.invalid:6379/0", redis_timeout_ms=50)
    try:
        started = time.monotonic()
        assert ping(link) is None
        assert time.monotonic() - started < HANG_GUARD_S
        assert link.failures == 1
    finally:
        answered.set()
        link.close()


@pytest.mark.redis
def test_a_connection_that_comes_too_late_is_closed(shared_redis: LocalRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    late, opened = threading.Event(), []
    original = redis.connection.Connection._connect

    def connect(self: Any) -> socket.socket:
        assert late.wait(60)
        opened.append(original(self))
        return opened[-1]

    monkeypatch.setattr(redis.connection.Connection, "_connect", connect)
    link = link_to(shared_redis.url, redis_timeout_ms=50)
    assert ping(link) is None
    late.set()
    deadline = time.monotonic() + HANG_GUARD_S
    while not opened or opened[0].fileno() != -1:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    link.close()
