"""What an embed worker tells of itself, and that gateways find it in Redis."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import orjson
import pytest

from app.embed.status import EmbedStatus
from app.local.redis import LocalRedis
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings
from app.watchdog import Watchdog
from tests.unit.embed.parts import SETTINGS, Parts, event


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def status_of(parts: Parts, clock: Clock | None = None, reason: str | None = None) -> EmbedStatus:
    return EmbedStatus(
        "here:8082", parts.embedder, parts.link, parts.metrics, lambda: reason, lambda: [0, 2], clock=clock or Clock()
    )


def test_a_worker_that_has_done_nothing_yet_tells_so() -> None:
    told = status_of(Parts(), reason="joining the consumer group").body()
    assert (told["ready"], told["reason"]) == (False, "joining the consumer group")
    assert (told["worker"], told["runtime"], told["partitions"]) == ("here:8082", "hashing", [0, 2])
    assert (told["hits"], told["misses"], told["hit_ratio"], told["batch_seconds"]) == (0, 0, None, None)
    assert (told["events_per_s"], told["redis"]) == (0.0, "not configured")
    orjson.dumps(told)


def test_a_worker_tells_what_its_caches_spared() -> None:
    parts = Parts()
    parts.process(event(0, "a", "x"), event(1, "b", "x"), event(2, "c", "y"))
    parts.process(event(3, "d", "x"), event(4, "c", "y"), event(5, "e"))
    told = status_of(parts).body()
    assert told["events"] == {"superseded": 0, "embed": 5, "unchanged": 1, "dead_letter": 0}
    assert told["chunks"] == {"memory": 1, "redis": 0, "model": 2, "worker": 0, "batch": 1}
    assert (told["hits"], told["misses"], told["hit_ratio"]) == (2, 2, 0.5)
    assert (told["batches"], told["batch_events"], told["model_calls"], told["ready"]) == (2, 3.0, 1, True)
    assert told["model_seconds"] >= 0
    assert told["model_seconds_saved"] >= 0


async def test_events_lately_are_those_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, clock = Parts(), Clock()
    status = status_of(parts, clock)
    for second in range(30):
        status._sample()
        if second < 20:
            parts.process(event(2 * second, f"d{second}", "x"), event(2 * second + 1, f"e{second}", "x"))
        clock.now += 1
        if second == 15:
            assert status.body()["events_per_s"] == pytest.approx(2.0)
    assert status.body()["events_per_s"] == pytest.approx(0.0, abs=0.3)


@pytest.mark.redis
async def test_a_worker_announces_itself_with_its_numbers_until_it_ends(shared_redis: LocalRedis) -> None:
    link = RedisLink(Settings(_env_file=None, redis_url=shared_redis.url, redis_timeout_ms=5000))
    registry = Registry(link, uuid.uuid4().hex, "embed")
    parts = Parts()
    parts.process(event(0, "a", "x"))
    announcing = asyncio.create_task(status_of(parts).announce(registry, Watchdog(0)))
    told: dict[str, Any] | None = {}
    async with asyncio.timeout(10):
        while not told:
            told = await asyncio.to_thread(registry.told)
            await asyncio.sleep(0.01)
    assert list(told) == ["here:8082"]
    assert told["here:8082"]["misses"] == 1
    announcing.cancel()
    await asyncio.gather(announcing, return_exceptions=True)
    assert registry.told() == {}
    link.close()


async def test_without_redis_a_worker_announces_nothing_and_goes_on() -> None:
    link = RedisLink(SETTINGS)
    announcing = asyncio.create_task(status_of(Parts()).announce(Registry(link, "c", "embed"), Watchdog(0)))
    await asyncio.wait({announcing}, timeout=0.05)
    assert not announcing.done()
    announcing.cancel()
    await asyncio.gather(announcing, return_exceptions=True)
