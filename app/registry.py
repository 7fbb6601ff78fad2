"""Where workers say that they are there, and gateways find them: one hash in Redis for each role."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, cast

import orjson

from app.redis_link import RedisLink

ALIVE_MS = 5000  # an entry not renewed for this long is a worker that ended without a word
_SWEEP_AFTER_MS = 60_000


class Registry:
    """Nothing here raises for Redis' sake.

    An index worker is announced by its URL; what it owns and how far it is, it says itself. An embed worker is
    announced by its name, with what it tells.
    """

    def __init__(self, link: RedisLink, collection: str, role: Literal["index", "embed"] = "index") -> None:
        self._link = link
        self._key = f"headrace:{collection}:{role}-workers"

    def announce(self, url: str, told: Mapping[str, Any] | None = None) -> None:
        """Called about once a second by a worker. told: for whom it may concern, JSON."""
        entry = orjson.dumps({"url": url, "alive_until_ms": _now_ms() + ALIVE_MS, "told": told or {}})
        self._link.call(lambda client: client.hset(self._key, url, entry))

    def withdraw(self, url: str) -> None:
        """Called when a worker stops in order."""
        self._link.call(lambda client: client.hdel(self._key, url))

    def urls(self) -> list[str] | None:
        """The workers that are alive; None if Redis cannot say."""
        told = self.told()
        return None if told is None else list(told)

    def told(self) -> dict[str, dict[str, Any]] | None:
        """What the workers that are alive have told, by URL, in its order; None if Redis cannot say."""
        entries = self._link.call(lambda client: cast("dict[bytes, bytes]", client.hgetall(self._key)))
        if entries is None:
            return None
        now_ms = _now_ms()
        alive: dict[str, dict[str, Any]] = {}
        dead = []
        for field, value in entries.items():
            entry = _decoded(value)
            if entry["alive_until_ms"] >= now_ms:
                alive[entry["url"]] = entry["told"]
            elif entry["alive_until_ms"] < now_ms - _SWEEP_AFTER_MS:
                dead.append(field)
        if dead:
            self._link.call(lambda client: client.hdel(self._key, *dead))
        return dict(sorted(alive.items()))


def _decoded(value: bytes) -> dict[str, Any]:
    """An entry; one that is not ours has long been dead."""
    try:
        entry = orjson.loads(value)
        told = entry.get("told", {})
        if not isinstance(told, dict):
            raise TypeError("told is no object")
        return {"url": str(entry["url"]), "alive_until_ms": int(entry["alive_until_ms"]), "told": told}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {"alive_until_ms": 0}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
