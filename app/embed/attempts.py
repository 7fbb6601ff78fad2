"""Texts that end the process while the model has them: counted in Redis, and set aside the third time.

Only a process that was started lately counts, and looks: what ended the one before comes again at once. Everybody else
pays nothing for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import redis

from app.embed.cache import TextCache
from app.redis_link import RedisLink

MOST_DEATHS = 3
_CAREFUL_S = 600.0  # after the start
_LIVES_MS = 24 * 3_600_000
_MOST_OVER = 10_000  # counters to be deleted that are kept in mind, 1 MB; those that are forgotten live a day
_UNLINK_AT_ONCE = 512  # as in cache.write
# KEYS: n counters. ARGV: ms to live.
_COUNT = "for i = 1, #KEYS do redis.call('INCR', KEYS[i]) redis.call('PEXPIRE', KEYS[i], ARGV[1]) end return 1"


class Attempts:
    """On the texts of one collection and model. Called by one thread at a time; does nothing without Redis.

    A counter belongs to a text in a partition: only one worker has that, so what counts is over, not under way.
    """

    def __init__(
        self, link: RedisLink, collection: str, vectors: TextCache, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._prefix = f"headrace:{collection}:attempts:".encode()
        self._vectors = vectors
        self._clock = clock
        self._careful_until_s = clock() + _CAREFUL_S
        self._partitions: Mapping[str, int] = {}
        self._over: deque[bytes] = deque(maxlen=_MOST_OVER)  # counters to be deleted: the process is still there

    @property
    def careful(self) -> bool:
        """Whether this process was started lately, and there is a Redis to ask."""
        return bool(self._link.url) and self._clock() < self._careful_until_s

    def locate(self, partitions: Mapping[str, int]) -> None:
        """Say of which partition each text of the batch is."""
        self._partitions = partitions

    def deaths(self, texts: Sequence[str]) -> list[int]:
        """How many times a process ended while its model had that text; 0 where Redis cannot say."""
        return [int(value) if value and value.isdigit() else 0 for value in self._link.mget(self._names(texts))]

    @contextmanager
    def calling(self, texts: Sequence[str]) -> Iterator[None]:
        """Inside, the model has the texts."""
        counted = self._count(self._names(texts)) if self.careful else []
        try:
            yield
        finally:
            self._over += counted
            self._forget()

    def _count(self, names: list[bytes]) -> list[bytes]:
        """Those that may have been counted: of a call that failed nobody knows; one that is not made counts nothing."""
        failures = self._link.failures
        answer = self._link.call(lambda client: client.eval(_COUNT, len(names), *names, _LIVES_MS))
        return names if answer is not None or self._link.failures > failures else []

    def _forget(self) -> None:
        """Delete as many counters of what is over as Redis takes."""
        while part := list(islice(self._over, _UNLINK_AT_ONCE)):

            def unlink(client: redis.Redis, part: list[bytes] = part) -> object:
                return client.unlink(*part)

            if self._link.call(unlink) is None:
                return
            for _ in part:
                self._over.popleft()

    def _names(self, texts: Sequence[str]) -> list[bytes]:
        keys = self._vectors.keys(texts)
        return [
            b"%b%d:%b" % (self._prefix, self._partitions.get(text, -1), key)
            for text, key in zip(texts, keys, strict=True)
        ]
