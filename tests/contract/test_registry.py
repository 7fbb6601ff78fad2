"""Index workers announce themselves, gateways find them; through a real Redis, and through none."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from app import registry as module
from app.local.redis import LocalRedis
from app.redis_link import RedisLink
from app.registry import ALIVE_MS, Registry
from app.settings import Settings

ONE, TWO = "http://one:8081", "http://two:8081"


@pytest.fixture
def link(shared_redis: LocalRedis) -> Iterator[RedisLink]:
    opened = RedisLink(Settings(_env_file=None, redis_url=shared_redis.url, redis_timeout_ms=5000))
    yield opened
    opened.close()


@pytest.fixture
def registry(link: RedisLink) -> Registry:
    return Registry(link, uuid.uuid4().hex)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ms since the epoch, to be moved by hand."""
    now = [1_700_000_000_000]
    monkeypatch.setattr(module, "_now_ms", lambda: now[0])
    return now


@pytest.mark.redis
def test_announced_workers_are_found_until_they_withdraw(registry: Registry) -> None:
    assert registry.urls() == []
    registry.announce(TWO)
    registry.announce(ONE)
    registry.announce(ONE)
    assert registry.urls() == [ONE, TWO]
    registry.withdraw(ONE)
    registry.withdraw(ONE)
    assert registry.urls() == [TWO]


@pytest.mark.redis
def test_a_worker_that_went_without_a_word_is_forgotten_unless_it_comes_back(
    registry: Registry, clock: list[int]
) -> None:
    registry.announce(ONE)
    clock[0] += ALIVE_MS
    registry.announce(TWO)
    assert registry.urls() == [ONE, TWO]
    clock[0] += 1
    assert registry.urls() == [TWO]
    registry.announce(ONE)
    assert registry.urls() == [ONE, TWO]


@pytest.mark.redis
def test_entries_long_dead_are_swept_out_of_redis(registry: Registry, link: RedisLink, clock: list[int]) -> None:
    registry.announce(ONE)
    clock[0] += ALIVE_MS + 60_001
    registry.announce(TWO)
    assert registry.urls() == [TWO]
    assert link.call(lambda client: client.hkeys(registry._key)) == [TWO.encode()]


@pytest.mark.redis
def test_collections_do_not_see_each_other(registry: Registry, link: RedisLink) -> None:
    registry.announce(ONE)
    assert Registry(link, uuid.uuid4().hex).urls() == []


def test_without_redis_nobody_can_say_and_nothing_fails() -> None:
    """None is not an empty list: a gateway then keeps the last known map."""
    registry = Registry(RedisLink(Settings(_env_file=None, redis_url="")), "c")
    registry.announce(ONE)
    registry.withdraw(ONE)
    assert registry.urls() is None


@pytest.mark.redis
def test_what_a_worker_tells_is_found_with_it_and_roles_do_not_see_each_other(link: RedisLink) -> None:
    collection = uuid.uuid4().hex
    index, embed = Registry(link, collection), Registry(link, collection, "embed")
    index.announce(ONE)
    embed.announce("two", {"hits": 1})
    embed.announce("two", {"hits": 2})
    assert (index.told(), embed.told()) == ({ONE: {}}, {"two": {"hits": 2}})
    assert index.urls() == [ONE]


@pytest.mark.redis
def test_entries_that_are_not_ours_are_left_out_and_swept(registry: Registry, link: RedisLink) -> None:
    registry.announce(ONE)
    link.call(lambda client: client.hset(registry._key, mapping={"x": "not json", "y": "[]", "z": '{"url": "u"}'}))
    assert registry.urls() == [ONE]
    assert link.call(lambda client: client.hkeys(registry._key)) == [ONE.encode()]


@pytest.mark.redis
def test_an_entry_of_the_version_before_is_a_worker_that_tells_nothing(registry: Registry, link: RedisLink) -> None:
    link.call(lambda client: client.hset(registry._key, ONE, b'{"url": "%b", "alive_until_ms": 9e15}' % ONE.encode()))
    assert registry.told() == {ONE: {}}
