"""Forgetting what was applied, in a real Redis and with what RedisApplied really writes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from app.embed import applied, rewind
from app.embed.applied import AppliedState, RedisApplied, Span
from app.embed.rewind import count_keys, forget_applied
from app.local.redis import LocalRedis
from app.redis_link import RedisLink
from app.settings import Settings
from schemas.errors import ServiceMissing
from tests.unit.embed.parts import event, work_of

pytestmark = pytest.mark.redis


@pytest.fixture
def link(shared_redis: LocalRedis) -> Iterator[RedisLink]:
    opened = RedisLink(Settings(_env_file=None, redis_url=shared_redis.url, redis_timeout_ms=5000))
    yield opened
    opened.close()


def test_only_the_partition_is_forgotten_in_every_epoch_and_no_other_collection_or_vector(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applied, "SCAN_KEYS", 10)
    monkeypatch.setattr(rewind, "SCAN_KEYS", 10)
    collection, marker = f"c{uuid.uuid4().hex}", f"headrace:vector:{uuid.uuid4().hex}:2:x"
    stores = [RedisApplied(link, name, epoch, 1) for name in (collection, collection + "x") for epoch in ("old", "new")]
    works = [work_of(event(n, f"d{n}:1:\n", "x", partition=p)) for p in (1, 2, 12) for n in range(50)]
    states = [AppliedState(work.order, False, bytes(16), bytes(8)) for work in works]
    spans = {partition: Span(0, 50) for partition in (1, 2, 12)}
    for store in stores:
        store.put(works, states, spans)
    link.call(lambda client: client.set(marker, "vector", px=60_000))
    passed: list[int] = []

    assert forget_applied(link, collection, {2}, passed.append) == 2 * 51

    for store, left in zip(stores, (100, 100, 150, 150), strict=True):
        held = [work.event.partition for work, state in zip(works, store.get(works), strict=True) if state is not None]
        assert len(held) == left
        assert (2 in held) == (left == 150)
        assert (2 in store.complete_since({p: Span(50, 51) for p in (1, 2, 12)})) == (left == 150)
    assert link.call(lambda client: client.exists(marker)) == 1
    assert sum(passed) >= count_keys(link)
    assert forget_applied(link, collection, {2}, passed.append) == 0


def test_without_redis_it_is_an_error_that_says_that_nothing_was_rewound() -> None:
    link = RedisLink(Settings(_env_file=None, redis_url="redis://127.0.0.1:1/0"))
    with pytest.raises(ServiceMissing, match="Nothing was rewound"):
        forget_applied(link, "c", {0}, lambda _: None)
