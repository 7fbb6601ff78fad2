"""What was computed for a text before: kept in this process, then in Redis. A pure function of fingerprint and text."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import redis

from app.redis_link import RedisLink

_OVERHEAD_BYTES = 200  # of one entry of the dictionary: key, two objects, links
_SET_AT_ONCE = 512


class TextCache:
    """Bytes by text. Called by one thread at a time.

    name: what is kept, part of the keys in Redis. memory_bytes: bound of the in-process part, least recently used go
    first. Redis gets everything, with a time to live of ttl_hours, spread by a tenth so that a bulk load does not
    expire all at once.
    """

    def __init__(self, link: RedisLink, name: str, fingerprint: str, memory_bytes: int, ttl_hours: int) -> None:
        self._link = link
        self._salt = blake2b(fingerprint.encode(), digest_size=16).digest()
        self._prefix = f"headrace:{name}:{self._salt[:6].hex()}:".encode()
        self._room_bytes = memory_bytes
        self._ttl_s = ttl_hours * 3600
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()

    def keys(self, texts: Sequence[str]) -> list[bytes]:
        """The key of each text, 20 bytes: model fingerprint and text."""
        return [blake2b(text.encode(), digest_size=20, key=self._salt).digest() for text in texts]

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is known of the keys; one MGET for those that are not in this process."""
        found = {}
        missing = []
        for key in dict.fromkeys(keys):
            value = self._memory.get(key)
            if value is None:
                missing.append(key)
            else:
                self._memory.move_to_end(key)
                found[key] = value
        values = self._link.mget([self._prefix + key for key in missing])
        fetched = {key: value for key, value in zip(missing, values, strict=True) if value is not None}
        self._remember(fetched)
        return found | fetched

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep new values, here and in Redis."""
        self._remember(values)
        items = list(values.items())
        for start in range(0, len(items), _SET_AT_ONCE):
            part = items[start : start + _SET_AT_ONCE]

            def write(client: redis.Redis, part: list[tuple[bytes, bytes]] = part) -> object:
                pipeline = client.pipeline(transaction=False)
                for key, value in part:
                    ttl_s = self._ttl_s + random.randint(0, self._ttl_s // 10)  # noqa: S311
                    pipeline.set(self._prefix + key, value, ex=ttl_s)
                return pipeline.execute()

            self._link.call(write)

    def _remember(self, values: Mapping[bytes, bytes]) -> None:
        for key, value in values.items():
            if key not in self._memory:
                self._room_bytes -= len(value) + _OVERHEAD_BYTES
            self._memory[key] = value
        while self._room_bytes < 0 and self._memory:
            _, value = self._memory.popitem(last=False)
            self._room_bytes += len(value) + _OVERHEAD_BYTES
