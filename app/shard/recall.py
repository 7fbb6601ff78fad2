"""How much of the truth the graph finds, measured beside live traffic: recent queries answered exactly as well."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from app.shard.generation import Generation, Ranked
from app.shard.index import HnswIndex

K = 10
_RECENT = 256
_WINDOW = 64  # measured queries that the mean is taken over
_AT_ONCE = 4  # exact scans share the conversion of vectors: 64 ms per 100,000 chunks
_TIE = 1e-5


class RecallMeter:
    """Keeps recent queries of one shard. `saw` from any thread, `measure` from one."""

    def __init__(self) -> None:
        self._recent: deque[bytes] = deque(maxlen=_RECENT)
        self._unmeasured: deque[bytes] = deque(maxlen=_AT_ONCE)
        self._measured: deque[float] = deque(maxlen=_WINDOW)

    @property
    def value(self) -> float | None:
        """Mean recall@10 of the last measured queries, by documents; None before the first."""
        measured = list(self._measured)
        return float(np.mean(measured)) if measured else None

    @property
    def samples(self) -> int:
        """How many queries the mean is of."""
        return len(self._measured)

    def saw(self, query: NDArray[np.float32]) -> None:
        """Remember a query."""
        key = query.tobytes()
        self._recent.append(key)
        self._unmeasured.append(key)

    def recent(self) -> NDArray[np.float32]:
        """The last distinct queries, oldest first; shape (n, dim), (0, 0) if there were none."""
        keys = list(dict.fromkeys(list(self._recent)))
        return (
            np.frombuffer(b"".join(keys), np.float32).reshape(len(keys), -1) if keys else np.empty((0, 0), np.float32)
        )

    def forget(self) -> None:
        """After a rebuild the graph is another."""
        self._measured.clear()

    def measure(self, index: HnswIndex) -> int:
        """Answer the newest queries both ways; returns how many there were."""
        keys = [self._unmeasured.popleft() for _ in range(len(self._unmeasured))]
        if not keys:
            return 0
        queries = np.frombuffer(b"".join(dict.fromkeys(keys)), np.float32).reshape(-1, index.generation.buffer.shape[1])
        before = index.generation
        found = [index.search(query, 2 * K) for query in queries]
        truth = exact_scores(before, index.generation, queries)
        measured = map(recall, found, truth)
        self._measured.extend(value for value in measured if value is not None)
        return len(queries)


def recall(found: list[Ranked], truth: dict[int, float]) -> float | None:
    """Share of the truth (document row → score) that was found; None if there was nothing to find."""
    if not truth:
        return None
    docs = {item.doc for item in found}
    worst = min(truth.values())
    tied = sum(item.score >= worst - _TIE for item in found if item.doc not in truth)
    return min(1.0, (sum(doc in docs for doc in truth) + tied) / len(truth))


def exact_scores(before: Generation, after: Generation, queries: NDArray[np.float32]) -> list[dict[int, float]]:
    """Per query the K best documents among the rows that were there in both generations, with their scores.

    What came or went while a search ran is left out: the search may be right either way.
    """
    if after.graph is not before.graph:
        before = after  # rebuilt in between: rows have other numbers
    end = min(before.end, after.end)
    alive = np.flatnonzero(after.rows.died[:end] > after.sequence)
    scores = after.scores(queries, alive)
    return [{item.doc: item.score for item in after.best(alive, row, K)} for row in scores]
