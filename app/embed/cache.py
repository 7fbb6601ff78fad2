"""What was computed for a text before: kept in this process, then in Redis. A pure function of fingerprint and text."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import redis

from app.redis_link import RedisLink

_OVERHEAD_BYTES = 200  # of one entry of the dictionary: key, two objects, links
_PUT_AT_ONCE = 512  # holds Redis up for about 1 ms
# KEYS: n keys. ARGV: value and seconds to live of each. 256 vectors take 1.0 ms, in a pipeline of SETs 2.5 ms; MSET
# knows no time to live.
_PUT = "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[2 * i - 1], 'EX', ARGV[2 * i]) end"

Entry = tuple[bytes, bytes, int]
"""Key in Redis, value, seconds to live."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known, by key, and where it was: in this process or in Redis."""

    memory: dict[bytes, bytes]
    redis: dict[bytes, bytes]


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

    def keys(self, texts: Iterable[str]) -> list[bytes]:
        """The key of each text, 20 bytes: model fingerprint and text."""
        salt = self._salt
        return [blake2b(text.encode(), digest_size=20, key=salt).digest() for text in texts]

    def in_redis(self, keys: Iterable[bytes]) -> list[bytes]:
        """What the keys are called in Redis."""
        prefix = self._prefix
        return [prefix + key for key in keys]

    def get(self, keys: Iterable[bytes]) -> Found:
        """What is known of the keys; one MGET for those that are not in this process."""
        found: dict[bytes, bytes] = {}
        missing = []
        memory = self._memory
        for key in dict.fromkeys(keys):
            value = memory.get(key)
            if value is None:
                missing.append(key)
            else:
                memory.move_to_end(key)
                found[key] = value
        values = self._link.mget(self.in_redis(missing))
        fetched = {key: value for key, value in zip(missing, values, strict=True) if value is not None}
        self._remember(fetched)
        return Found(found, fetched)

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep new values, here and in Redis."""
        self._remember(values)
        write(self._link, self._entries(values))

    def _entries(self, values: Mapping[bytes, bytes]) -> list[Entry]:
        spread_s = self._ttl_s / 10
        ttls_s = [self._ttl_s + int(random.random() * spread_s) for _ in values]  # noqa: S311
        return list(zip(self.in_redis(values), values.values(), ttls_s, strict=True))

    def _remember(self, values: Mapping[bytes, bytes]) -> None:
        for key, value in values.items():
            held = self._memory.pop(key, None)
            if held is not None:
                self._room_bytes += len(held) + _OVERHEAD_BYTES
            self._memory[key] = value
            self._room_bytes -= len(value) + _OVERHEAD_BYTES
        while self._room_bytes < 0 and self._memory:
            _, value = self._memory.popitem(last=False)
            self._room_bytes += len(value) + _OVERHEAD_BYTES


class Caches:
    """vectors: by the text of a chunk, in the type of records. cuts: by title and text of a document, `Cut.encode`."""

    def __init__(self, link: RedisLink, vectors: TextCache, cuts: TextCache) -> None:
        self._link = link
        self.vectors = vectors
        self.cuts = cuts

    def keep(self, vectors: Mapping[bytes, bytes], cuts: Mapping[bytes, bytes]) -> None:
        """Keep both in one call of Redis."""
        self.vectors._remember(vectors)
        self.cuts._remember(cuts)
        write(self._link, self.vectors._entries(vectors) + self.cuts._entries(cuts))


def write(link: RedisLink, entries: Sequence[Entry]) -> None:
    """Into Redis, as far as it takes them."""
    rest = iter(entries)
    while part := list(islice(rest, _PUT_AT_ONCE)):
        keys = [key for key, _, _ in part]
        values = [argument for _, value, ttl_s in part for argument in (value, ttl_s)]

        def put(client: redis.Redis, keys: list[bytes] = keys, values: list[bytes | int] = values) -> object:
            return client.eval(_PUT, len(keys), *keys, *values)

        link.call(put)
