"""Having the embed workers read events again: from where, and forgetting what was applied.

Without forgetting, every event read again would be taken for redelivered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import redis

from app.embed.applied import SCAN_KEYS, scan
from app.kafka.reading import Span
from app.redis_link import RedisLink
from schemas.errors import BadRequest

_OTHERWISE = (
    ", and what it remembers as applied has to go: start it and run this again, or set HEADRACE_REDIS_URL= (empty) if "
    "the workers run without. Nothing was rewound"
)
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
    deleted = 0
    for keys in scan(link, f"headrace:{collection}:".encode(), _OTHERWISE):
        gone = [key for key in keys if _partition_of(key, prefixes) in wanted]
        if gone:
            deleted += link.must(partial(_unlink, keys=gone), _OTHERWISE)
        advance(SCAN_KEYS)
    return deleted


def count_keys(link: RedisLink) -> int:
    """All keys in Redis: what `forget_applied` has to pass. Raises ServiceMissing."""
    return link.must(lambda client: client.dbsize(), _OTHERWISE)


def _unlink(client: redis.Redis, keys: list[bytes]) -> int:
    return client.unlink(*keys)


def _partition_of(key: bytes, prefixes: tuple[bytes, ...]) -> bytes | None:
    for prefix in prefixes:
        if key.startswith(prefix):
            match = _ID.fullmatch(key.removeprefix(prefix))
            return match[1] if match else None
    return None
