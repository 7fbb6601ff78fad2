"""The circuit breaker: a Redis that fails is left alone, longer each time, and taken back when it answers."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import redis

from app.redis_link import FIRST_PAUSE_S, LONGEST_PAUSE_S, RedisLink
from app.settings import Settings
from schemas.errors import ServiceMissing

SECRET = "s3cret"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Redis:
    """Stands for the server: counts the calls, each of which takes so long, and fails while `down`."""

    def __init__(self, clock: Clock | None = None, takes_s: float = 0.0) -> None:
        self.calls = 0
        self.down = False
        self.takes_s = takes_s
        self._clock = clock

    def __call__(self, _: Any) -> str:
        self.calls += 1
        if self._clock is not None:
            self._clock.now += self.takes_s
        if self.down:
            raise redis.ConnectionError("cut")
        return "answer"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(clock: Clock) -> RedisLink:
    return RedisLink(Settings(_env_file=None, redis_url=f"redis://user:{SECRET}@127.0.0.1:1/0"), clock=clock)


def test_after_each_failure_redis_is_left_alone_for_twice_as_long(link: RedisLink, clock: Clock) -> None:
    server, pauses = Redis(), []
    server.down = True
    link.call(server)
    last = clock.now
    while len(pauses) < 8:
        clock.now += FIRST_PAUSE_S / 2
        before = server.calls
        assert link.call(server) is None
        if server.calls > before:
            pauses.append(clock.now - last)
            last = clock.now
    assert pauses == [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(8)]


def test_while_it_is_left_alone_nothing_is_asked_and_the_state_says_so(link: RedisLink, clock: Clock) -> None:
    server = Redis()
    assert (link.call(server), link.state) == ("answer", "ok")
    server.down = True
    assert (link.call(server), link.state, link.failures) == (None, "unavailable", 1)
    server.down = False
    clock.now += FIRST_PAUSE_S - 0.01
    assert (link.call(server), server.calls) == (None, 2)
    clock.now += 0.01
    assert (link.call(server), link.state, server.calls) == ("answer", "ok", 3)
    server.down = True
    link.call(server)
    clock.now += FIRST_PAUSE_S
    server.down = False
    assert link.call(server) == "answer"  # the pause began anew at its shortest


def test_calls_that_are_each_in_time_are_too_many_for_a_batch_when_they_have_used_up_its_time(
    link: RedisLink, clock: Clock
) -> None:
    server = Redis(clock, 0.15)
    with link.batch() as batch:
        assert [link.call(server) for _ in range(6)] == ["answer"] * 3 + [None] * 3
    assert (server.calls, batch.calls, link.failures, link.state) == (3, 3, 1, "unavailable")
    assert batch.spent_s == pytest.approx(0.45)


def test_a_batch_asks_no_more_after_its_time_even_when_the_pause_is_over(link: RedisLink, clock: Clock) -> None:
    server = Redis(clock, 0.5)
    with link.batch():
        assert link.call(server) == "answer"
        clock.now += LONGEST_PAUSE_S  # the model
        assert (link.call(server), server.calls) == (None, 1)


def test_a_slow_redis_is_left_alone_longer_each_time_until_a_whole_batch_is_in_time(
    link: RedisLink, clock: Clock
) -> None:
    server, pauses = Redis(clock, 0.3), []
    while len(pauses) < 4:
        with link.batch():
            answers = [link.call(server) for _ in range(6)]
        assert answers == ["answer", "answer", None, None, None, None]
        ended = clock.now
        while link.call(server) is None:  # outside of a batch: shows no more than that it is there
            clock.now += FIRST_PAUSE_S / 8
        pauses.append(clock.now - 0.3 - ended)
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0])
    assert link.state == "unavailable"
    server.takes_s = 0.001
    with link.batch():
        assert [link.call(server) for _ in range(6)] == ["answer"] * 6
    assert link.state == "ok"


def test_a_batch_with_a_call_that_failed_does_not_end_an_outage(link: RedisLink, clock: Clock) -> None:
    server = Redis()
    with link.batch():
        link.call(server)
        server.down = True
        link.call(server)
    assert (link.state, link.failures) == ("unavailable", 1)


def test_what_other_threads_ask_is_not_on_the_account_of_a_batch(link: RedisLink, clock: Clock) -> None:
    slow = Redis(clock, 10.0)
    with link.batch() as batch:
        other = threading.Thread(target=link.call, args=(slow,))
        other.start()
        other.join(10)
        assert (slow.calls, batch.spent_s, batch.calls) == (1, 0.0, 0)
        assert link.call(Redis()) == "answer"
    assert link.state == "ok"


def test_an_outage_is_told_once_and_its_end_once_and_never_a_password(
    link: RedisLink, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Redis()
    server.down = True
    with caplog.at_level(logging.INFO, "headrace.redis"):
        for _ in range(5):
            link.call(server)
            clock.now += LONGEST_PAUSE_S
        server.down = False
        link.call(server)
        link.call(server)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "redis://127.0.0.1:1/0" in caplog.text
    assert SECRET not in caplog.text


def test_an_error_that_is_not_redis_own_is_not_swallowed(link: RedisLink) -> None:
    with pytest.raises(ZeroDivisionError):
        link.call(lambda _: 1 // 0)
    assert link.state == "ok"


def test_without_a_url_every_call_is_none_and_nothing_is_missing() -> None:
    link = RedisLink(Settings(_env_file=None, redis_url=""))
    link.require()
    assert (link.call(Redis()), link.mget([b"a", b"b"]), link.state, link.failures) == (
        None,
        [None, None],
        "not configured",
        0,
    )
    link.close()


def test_values_are_none_while_redis_is_away_and_no_keys_ask_nothing(link: RedisLink) -> None:
    assert link.mget([]) == []
    assert link.failures == 0
    assert link.mget([b"a", b"b"]) == [None, None]
    assert link.failures == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://user:{SECRET}@127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
        ("unix:///nowhere/redis.sock", "unix:///nowhere/redis.sock"),
        ("rediss://127.0.0.1:1/0", "rediss://127.0.0.1:1/0"),
    ],
)
def test_a_redis_that_is_missing_at_the_start_is_named_without_its_password(url: str, shown: str) -> None:
    with pytest.raises(ServiceMissing) as caught:
        RedisLink(Settings(_env_file=None, redis_url=url)).require()
    message = str(caught.value)
    assert shown in message
    assert "HEADRACE_REDIS_URL=" in message
    assert SECRET not in message


def test_password_and_ca_of_the_settings_reach_the_client(tmp_path: Any) -> None:
    link = RedisLink(
        Settings(_env_file=None, redis_url="rediss://h:1/0", redis_password=SECRET, redis_ssl_ca=tmp_path / "ca.pem")
    )
    assert link._client is not None
    options = link._client.connection_pool.connection_kwargs
    assert (options["password"], options["ssl_ca_certs"]) == (SECRET, str(tmp_path / "ca.pem"))
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.2, 0.2)
    link.close()
