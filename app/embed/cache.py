"""Vectors of chunks already embedded: in this process, then in Redis. A pure function of fingerprint and text."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import redis
from numpy.typing import NDArray

from app.redis_link import RedisLink

_OVERHEAD_BYTES = 200  # of one entry of the dictionary: key, two objects, links
_SET_AT_ONCE = 512


class VectorCache:
    """Called by one thread at a time. Keys are made by `keys`; values are float16 vectors of shape (dim,).

    memory_bytes: bound of the in-process part. Redis gets every vector with a time to live of ttl_hours,
    spread by a tenth so that a bulk load does not expire all at once.
    """

    def __init__(self, link: RedisLink, fingerprint: str, dim: int, memory_bytes: int, ttl_hours: int) -> None:
        self._link = link
        self._dim = dim
        self._salt = blake2b(fingerprint.encode(), digest_size=16).digest()
        self._prefix = b"headrace:vector:" + self._salt[:6].hex().encode() + b":"
        self._most = memory_bytes // (dim * 2 + _OVERHEAD_BYTES)
        self._ttl_s = ttl_hours * 3600
        self._memory: OrderedDict[bytes, NDArray[np.float16]] = OrderedDict()

    def keys(self, texts: Sequence[str]) -> list[bytes]:
        """The key of each text, 20 bytes: model fingerprint and text."""
        return [blake2b(text.encode(), digest_size=20, key=self._salt).digest() for text in texts]

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float16]]:
        """What is known of the keys; one MGET for those that are not in this process."""
        found = {}
        missing = []
        for key in dict.fromkeys(keys):
            vector = self._memory.get(key)
            if vector is None:
                missing.append(key)
            else:
                self._memory.move_to_end(key)
                found[key] = vector
        if missing:
            fetched = self._fetch(missing)
            self._remember(fetched)
            found |= fetched
        return found

    def put(self, vectors: Mapping[bytes, NDArray[np.float16]]) -> None:
        """Keep new vectors, here and in Redis."""
        self._remember(vectors)
        items = list(vectors.items())
        for start in range(0, len(items), _SET_AT_ONCE):
            part = items[start : start + _SET_AT_ONCE]

            def write(client: redis.Redis, part: list[tuple[bytes, NDArray[np.float16]]] = part) -> object:
                pipeline = client.pipeline(transaction=False)
                for key, vector in part:
                    ttl_s = self._ttl_s + random.randint(0, self._ttl_s // 10)  # noqa: S311
                    pipeline.set(self._prefix + key, vector.tobytes(), ex=ttl_s)
                return pipeline.execute()

            self._link.call(write)

    def _fetch(self, keys: list[bytes]) -> dict[bytes, NDArray[np.float16]]:
        values = self._link.mget([self._prefix + key for key in keys])
        found: dict[bytes, NDArray[np.float16]] = {}
        for key, value in zip(keys, values, strict=True):
            if value is not None and len(value) == self._dim * 2:
                found[key] = np.frombuffer(value, dtype=np.float16)
        return found

    def _remember(self, vectors: Mapping[bytes, NDArray[np.float16]]) -> None:
        self._memory.update(vectors)
        while len(self._memory) > self._most:
            self._memory.popitem(last=False)
