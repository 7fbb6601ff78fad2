"""The cache of vectors and cuts, with Redis, without, and with one that dies: a loss costs time only."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator

import pytest
import redis

from app.embed.cache import Caches, TextCache
from app.local.redis import LocalRedis, find_redis_server
from app.redis_link import RedisLink
from app.settings import Settings
from tests.services_local import redis_or_skip

TEXTS = ["first", "second", "ключ", ""]
TIMEOUT_MS = 200


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def link(request: pytest.FixtureRequest) -> Iterator[RedisLink]:
    url = "" if request.param == "memory" else request.getfixturevalue("shared_redis").url
    opened = RedisLink(Settings(_env_file=None, redis_url=url, redis_timeout_ms=5000))
    yield opened
    opened.close()


def cache(link: RedisLink, name: str = "vector", fingerprint: str = "m", memory_bytes: int = 10_000) -> TextCache:
    return TextCache(link, name, fingerprint, memory_bytes, 1)


def known(own: TextCache, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    found = own.get(keys)
    return found.memory | found.redis


def test_what_was_put_is_got_and_nothing_else(link: RedisLink) -> None:
    own = cache(link, fingerprint=uuid.uuid4().hex)
    keys = own.keys(TEXTS)
    assert len(set(keys)) == len(TEXTS)
    assert known(own, keys) == {}
    own.put({keys[0]: b"0", keys[2]: b"2"})
    assert known(own, [*keys, keys[0]]) == {keys[0]: b"0", keys[2]: b"2"}
    assert known(own, []) == {}


def test_another_model_or_another_kind_has_other_entries(link: RedisLink) -> None:
    fingerprint = uuid.uuid4().hex
    own = cache(link, fingerprint=fingerprint)
    own.put(dict.fromkeys(own.keys(["x"]), b"v"))
    for other in (cache(link, fingerprint=fingerprint + "'"), cache(link, name="cut", fingerprint=fingerprint)):
        assert known(other, other.keys(["x"])) == {}


def test_the_memory_forgets_what_was_used_least_lately() -> None:
    own = cache(RedisLink(Settings(_env_file=None, redis_url="")), memory_bytes=3 * 300)
    a, b, c, d = own.keys("abcd")
    own.put({a: b"a" * 100, b: b"b" * 100, c: b"c" * 100})
    known(own, [a])
    own.put({d: b"d" * 100})
    assert set(known(own, [a, b, c, d])) == {a, c, d}


def test_without_room_and_without_redis_nothing_is_kept() -> None:
    own = cache(RedisLink(Settings(_env_file=None, redis_url="")), memory_bytes=0)
    own.put(dict.fromkeys(own.keys(["x"]), b"v"))
    assert known(own, own.keys(["x"])) == {}


@pytest.mark.redis
def test_what_one_process_computed_another_finds_in_redis(shared_redis: LocalRedis) -> None:
    link = RedisLink(Settings(_env_file=None, redis_url=shared_redis.url, redis_timeout_ms=5000))
    fingerprint = uuid.uuid4().hex
    one, other = (cache(link, fingerprint=fingerprint, memory_bytes=0) for _ in range(2))
    keys = one.keys([str(number) for number in range(1200)])
    values = {key: bytes([number % 256]) * 9 for number, key in enumerate(keys)}
    one.put(values)
    assert known(other, keys) == values
    with redis.Redis.from_url(shared_redis.url) as client:
        ttls = {client.ttl(b"headrace:vector:%b:%b" % (one._salt[:6].hex().encode(), key)) for key in keys[:50]}
    assert 3590 <= min(ttls) < max(ttls) <= 3960  # spread, so that a bulk load does not expire all at once
    link.close()


@pytest.mark.redis
def test_it_tells_what_was_in_this_process_and_what_in_redis(shared_redis: LocalRedis) -> None:
    link = RedisLink(Settings(_env_file=None, redis_url=shared_redis.url, redis_timeout_ms=5000))
    fingerprint = uuid.uuid4().hex
    one, other = cache(link, fingerprint=fingerprint), cache(link, fingerprint=fingerprint)
    a, b, c = one.keys("abc")
    one.put({a: b"a"})
    other.put({b: b"b"})
    for redis_has in ({b: b"b"}, {}):
        found = one.get([c, b, a, b])
        assert found.redis == redis_has
        assert found.memory == ({a: b"a"} if redis_has else {a: b"a", b: b"b"})
    link.close()


def test_a_value_that_is_put_again_takes_its_room_once() -> None:
    own = cache(RedisLink(Settings(_env_file=None, redis_url="")), memory_bytes=2 * 300)
    a, b = own.keys("ab")
    for value in (b"1" * 100, b"2" * 50, b"3" * 100):
        own.put({a: value})
    own.put({b: b"b" * 100})
    assert known(own, [a, b]) == {a: b"3" * 100, b: b"b" * 100}


@pytest.mark.redis
def test_vectors_and_cuts_are_kept_in_one_call(shared_redis: LocalRedis) -> None:
    link = RedisLink(Settings(_env_file=None, redis_url=shared_redis.url, redis_timeout_ms=5000))
    fingerprint = uuid.uuid4().hex
    vectors, cuts = (cache(link, name, fingerprint, memory_bytes=0) for name in ("vector", "cut"))
    (key,) = vectors.keys(["x"])
    with link.batch() as batch:
        Caches(link, vectors, cuts).keep({key: b"v"}, {key: b"c"})
    assert batch.calls == 1
    assert (known(vectors, [key]), known(cuts, [key])) == ({key: b"v"}, {key: b"c"})
    with link.batch() as batch:
        Caches(link, vectors, cuts).keep({}, {})
    assert batch.calls == 0
    link.close()


@pytest.mark.redis
def test_a_redis_that_dies_midway_costs_one_short_wait_and_no_exception() -> None:
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as server:
        link = RedisLink(Settings(_env_file=None, redis_url=server.url, redis_timeout_ms=TIMEOUT_MS))
        own = cache(link)
        key, other = own.keys(["x", "y"])
        own.put({key: b"v"})
        server.kill()
        started = time.monotonic()
        assert known(own, [key, other]) == {key: b"v"}
        own.put({other: b"w"})
        for _ in range(50):
            assert known(own, own.keys([uuid.uuid4().hex])) == {}
        assert time.monotonic() - started < 10 * TIMEOUT_MS / 1000
        assert (link.state, known(own, [other])) == ("unavailable", {other: b"w"})
        link.close()


@pytest.mark.redis
def test_a_redis_that_hangs_is_given_up_after_its_timeout_and_then_left_alone() -> None:
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as server:
        link = RedisLink(Settings(_env_file=None, redis_url=server.url, redis_timeout_ms=TIMEOUT_MS))
        own = cache(link, memory_bytes=0)
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLIENT", "PAUSE", 3000, "ALL")
        started = time.monotonic()
        keys = own.keys([str(number) for number in range(100)])
        for key in keys:
            assert known(own, [key]) == {}
        assert time.monotonic() - started < 10 * TIMEOUT_MS / 1000
        assert link.failures < 5
        link.close()
