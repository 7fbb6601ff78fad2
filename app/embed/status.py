"""What an embed worker tells of itself, for `headrace status` and the gateway's /status."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from app.model.embedder import Embedder
from app.observe.metrics import EmbedMetrics, counts_by_label
from app.redis_link import RedisLink
from app.registry import Registry
from app.watchdog import Watchdog
from schemas.document_change import utc

_EVERY_S = 1.0
_LATELY_S = 10.0
_MISSES = "model"


class EmbedStatus:
    """One worker. name: that no other worker of its collection has. ready: what is in the way, None when nothing is.

    owned: the partitions whose changes it embeds.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        link: RedisLink,
        metrics: EmbedMetrics,
        ready: Callable[[], str | None],
        owned: Callable[[], Sequence[int]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._about = {
            "worker": name,
            "model": embedder.fingerprint,
            "runtime": embedder.runtime,
            "started": utc(time.time_ns() // 1_000_000),
        }
        self._link = link
        self._metrics = metrics
        self._ready = ready
        self._owned = owned
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()

    def body(self) -> dict[str, Any]:
        """The numbers are since the worker's start, but `events_per_s` of the last ten seconds; any thread."""
        metrics, reason = self._metrics, self._ready()
        chunks = counts_by_label(metrics.chunks)
        misses = chunks.get(_MISSES, 0)
        hits = sum(chunks.values()) - misses
        batches = _samples(metrics.batch_events)["_count"]
        return self._about | {
            "ready": reason is None,
            "reason": reason,
            "partitions": list(self._owned()),
            "events": counts_by_label(metrics.events),
            "events_per_s": self._events_per_s(),
            "waiting_events": int(_value(metrics.waiting)),
            "batches": int(batches),
            "batch_events": _mean(metrics.batch_events),
            "batch_seconds": _mean(metrics.batch_seconds),
            "chunks": chunks,
            "cuts": counts_by_label(metrics.cuts),
            "hits": hits,
            "misses": misses,
            "hit_ratio": round(hits / (hits + misses), 4) if hits + misses else None,
            "model_calls": int(_value(metrics.model_calls)),
            "model_seconds": round(_value(metrics.model_seconds), 3),
            "model_seconds_saved": round(_value(metrics.model_seconds_saved), 3),
            "redis": self._link.state,
            "redis_seconds": round(_value(metrics.redis_seconds), 3),
            "redis_failures": self._link.failures,
        }

    async def announce(self, registry: Registry, watchdog: Watchdog) -> None:
        """Tell Redis once a second, until cancelled. In other threads: neither the loop nor a batch waits for it."""
        try:
            while True:
                self._sample()
                with watchdog.watch("telling Redis of this worker"):
                    await asyncio.to_thread(registry.announce, self.name, self.body())
                await asyncio.sleep(_EVERY_S)
        finally:
            registry.withdraw(self.name)

    def _sample(self) -> None:
        now = self._clock()
        self._seen.append((now, _samples(self._metrics.batch_events)["_sum"]))
        if self._seen[0][0] < now - _LATELY_S:
            self._seen.popleft()

    def _events_per_s(self) -> float:
        if not self._seen:
            return 0.0
        then, before = self._seen[0]
        passed_s = self._clock() - then
        events = _samples(self._metrics.batch_events)["_sum"] - before
        return round(events / passed_s, 1) if passed_s > 0 else 0.0


def _samples(metric: Counter | Gauge | Histogram) -> dict[str, float]:
    """By the end of their names, of a metric without labels."""
    (family,) = metric.collect()
    return {sample.name.removeprefix(family.name): sample.value for sample in family.samples}


def _value(metric: Counter | Gauge) -> float:
    samples = _samples(metric)
    return samples["_total"] if "_total" in samples else samples[""]


def _mean(metric: Histogram) -> float | None:
    samples = _samples(metric)
    return round(samples["_sum"] / samples["_count"], 4) if samples["_count"] else None
