"""Having the embed workers read events again: from where, and forgetting what was applied.

Without forgetting, every event read again would be taken for redelivered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import redis

from app.kafka.reading import Span
from app.redis_link import RedisLink
from schemas.errors import BadRequest, ServiceMissing

T = TypeVar("T")

_SCAN_KEYS = 1000  # in one call: a few ms of Redis, well below the default redis_timeout_ms
_ID = re.compile(rb"[^:]+:(\d+)(?::.*)?", re.DOTALL)  # epoch, partition, and of documents the id


@dataclass(frozen=True, slots=True)
class Step:
    """One partition: goes on at `start` in place of `committed`. events: at most, as compaction leaves gaps."""

    partition: int
    committed: int
    start: int

    @property
    def events(self) -> int:
        """Events that would be read again, at most."""
        return self.committed - self.start


def plan_rewind(starts: Mapping[int, int], committed: Mapping[int, int], spans: Mapping[int, Span]) -> list[Step]:
    """What changes, by partition; nothing where the workers have not been yet.

    starts: where to go on. Raises BadRequest for an offset that is not between the first one held and the committed:
    beyond it events would be lost, never to be embedded.
    """
    steps = []
    for partition, start in sorted(starts.items()):
        if partition not in spans:
            there = ", ".join(map(str, sorted(spans)))
            raise BadRequest(f"there is no partition {partition}; there are {there}")
        first, reached = spans[partition][0], committed.get(partition)
        if reached is None:
            continue
        if not first <= start <= reached:
            raise BadRequest(
                f"{partition}:{start} is out of range: partition {partition} can be rewound to {first} at the "
                f"earliest and to {reached} at the latest, where the embed workers are: beyond it, events would be lost"
            )
        if start < reached:
            steps.append(Step(partition, reached, start))
    return steps


def earlier(found: Mapping[int, int], committed: Mapping[int, int], spans: Mapping[int, Span]) -> dict[int, int]:
    """Offsets found by time, none beyond the committed: rewinding never goes forward."""
    return {
        partition: max(spans[partition][0], min(offset, committed.get(partition, offset)))
        for partition, offset in found.items()
    }


def forget_applied(
    link: RedisLink, collection: str, partitions: Collection[int], advance: Callable[[int], None]
) -> int:
    """Delete what Redis remembers as applied in the partitions, in any epoch. Vectors and cuts stay.

    advance: told how many of Redis' keys have been passed, about. Returns how many were deleted. Raises ServiceMissing
    if Redis stops answering; run it again then, nothing has been rewound.
    """
    prefixes = tuple(f"headrace:{collection}:{name}:".encode() for name in ("applied", "remembered"))
    wanted = {b"%d" % partition for partition in partitions}
    deleted = cursor = 0
    while True:
        cursor, keys = _asked(link, partial(_scan, cursor=cursor, collection=collection))
        gone = [key for key in keys if _partition_of(key, prefixes) in wanted]
        if gone:
            deleted += _asked(link, partial(_unlink, keys=gone))
        advance(_SCAN_KEYS)
        if cursor == 0:
            return deleted


def count_keys(link: RedisLink) -> int:
    """All keys in Redis: what `forget_applied` has to pass. Raises ServiceMissing."""
    return _asked(link, lambda client: client.dbsize())


def _unlink(client: redis.Redis, keys: list[bytes]) -> int:
    return client.unlink(*keys)


def _scan(client: redis.Redis, cursor: int, collection: str) -> tuple[int, list[bytes]]:
    pattern = f"headrace:{collection}:*"  # a collection's name has none of the characters that mean something here
    return cast("tuple[int, list[bytes]]", client.scan(cursor, match=pattern, count=_SCAN_KEYS))


def _partition_of(key: bytes, prefixes: tuple[bytes, ...]) -> bytes | None:
    for prefix in prefixes:
        if key.startswith(prefix):
            match = _ID.fullmatch(key.removeprefix(prefix))
            return match[1] if match else None
    return None


def _asked(link: RedisLink, action: Callable[[redis.Redis], T]) -> T:
    answer = link.call(action)
    if answer is None:
        raise ServiceMissing(
            "Redis does not answer (HEADRACE_REDIS_URL), and what it remembers as applied has to go: start it and run "
            "this again, or set HEADRACE_REDIS_URL= (empty) if the workers run without. Nothing was rewound"
        )
    return answer
