"""The freshness objective: how many documents became visible in time, lately, and how fast that uses up the budget."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

_BUCKET_S = 10.0
WINDOWS_S = (300, 3600)  # short enough to warn, long enough to matter


@dataclass(slots=True)
class _Bucket:
    began: float
    met: int = 0
    missed: int = 0


class PerSecond:
    """Lets through so many a second, in one thread. most: 0 for all."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._began = -1.0
        self._count = 0

    def take(self) -> bool:
        """Whether one more is let through."""
        if not self._most:
            return True
        now = self._clock()
        if now - self._began >= 1:
            self._began, self._count = now, 0
        self._count += 1
        return self._count <= self._most


class Objective:
    """Counts documents by whether they took longer than `limit_ms` from being sent to being visible. Thread-safe.

    ratio: of all documents, the share that must not take longer; 0 to 1. A burn of 1 uses up what the objective allows
    just in its period; of 10, in a tenth of it.
    """

    def __init__(self, limit_ms: int, ratio: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_ms = limit_ms
        self.ratio = ratio
        self._clock = clock
        self._buckets: deque[_Bucket] = deque()
        self._lock = Lock()

    def is_slow(self, latency_ms: float) -> bool:
        """Whether a document misses the objective."""
        return latency_ms > self.limit_ms

    def count(self, met: int, missed: int) -> None:
        """Documents that became visible just now."""
        now = self._clock()
        with self._lock:
            if not self._buckets or now - self._buckets[-1].began >= _BUCKET_S:
                self._buckets.append(_Bucket(now))
                while now - self._buckets[0].began > WINDOWS_S[-1]:
                    self._buckets.popleft()
            self._buckets[-1].met += met
            self._buckets[-1].missed += missed

    def window(self, seconds: float) -> tuple[int, int]:
        """How many met and missed it in the last `seconds`, to within 10 s."""
        since = self._clock() - seconds
        with self._lock:
            own = [bucket for bucket in self._buckets if bucket.began >= since]
        return sum(bucket.met for bucket in own), sum(bucket.missed for bucket in own)

    def burn(self, seconds: float) -> float:
        """How fast the budget is used up; 0 where nothing came."""
        return burn(*self.window(seconds), self.ratio)


def burn(met: int, missed: int, ratio: float) -> float:
    """Of documents of which `ratio` must meet the objective; 0 where nothing came."""
    return 0.0 if not missed else missed / (met + missed) / (1 - ratio)
