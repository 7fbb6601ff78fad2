"""Where index workers say that they are there, and gateways find them: one hash in Redis."""

from __future__ import annotations

import time
from typing import cast

import orjson

from app.redis_link import RedisLink

ALIVE_MS = 5000  # an entry not renewed for this long is a worker that ended without a word


class Registry:
    """Entries are URLs; what a worker owns and how far it is, it says itself. Nothing here raises for Redis' sake."""

    def __init__(self, link: RedisLink, collection: str) -> None:
        self._link = link
        self._key = f"headrace:{collection}:index-workers"

    def announce(self, url: str) -> None:
        """Called about once a second by an index worker."""
        entry = orjson.dumps({"url": url, "alive_until_ms": _now_ms() + ALIVE_MS})
        self._link.call(lambda client: client.hset(self._key, url, entry))

    def withdraw(self, url: str) -> None:
        """Called when an index worker stops in order."""
        self._link.call(lambda client: client.hdel(self._key, url))

    def urls(self) -> list[str] | None:
        """The workers that are alive; None if Redis cannot say."""
        entries = self._link.call(lambda client: cast("dict[bytes, bytes]", client.hgetall(self._key)))
        if entries is None:
            return None
        decoded = [orjson.loads(entry) for entry in entries.values()]
        dead = [entry["url"] for entry in decoded if entry["alive_until_ms"] < _now_ms() - 60_000]
        if dead:
            self._link.call(lambda client: client.hdel(self._key, *dead))
        return sorted(entry["url"] for entry in decoded if entry["alive_until_ms"] >= _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
