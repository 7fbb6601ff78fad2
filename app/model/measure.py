"""How fast an embedder is on this machine: many texts, and one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.model.embedder import Embedder

_SINGLE_CALLS = 30
_APART_S = 0.02  # a query comes to caches that others have used meanwhile


@dataclass(frozen=True, slots=True)
class Speed:
    """texts_per_s: in bulk. single_ms: median of one short text at a time, back to back; apart_ms: 20 ms apart."""

    texts_per_s: float
    single_ms: float
    apart_ms: float


def speed(embedder: Embedder, texts: Sequence[str], queries: Sequence[str], at_once: int = 512) -> Speed:
    """Embed `texts`, `at_once` in a call, twice; the faster time counts, since the first meets new shapes."""
    return Speed(
        len(texts) / min(_bulk(embedder, texts, at_once) for _ in range(2)),
        _median_ms(embedder, queries, lambda: None),
        _median_ms(embedder, queries, lambda: time.sleep(_APART_S)),
    )


def _bulk(embedder: Embedder, texts: Sequence[str], at_once: int) -> float:
    began = time.perf_counter()
    for start in range(0, len(texts), at_once):
        embedder.embed(texts[start : start + at_once])
    return time.perf_counter() - began


def _median_ms(embedder: Embedder, queries: Sequence[str], pause: Callable[[], None]) -> float:
    took_ms = []
    for call in range(_SINGLE_CALLS):
        pause()
        began = time.perf_counter()
        embedder.embed([queries[call % len(queries)]])
        took_ms.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took_ms)
