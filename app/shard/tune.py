"""Recall against latency over ef_search, measured on a shard's own graph and queries."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from app.shard.generation import Ranked
from app.shard.index import HnswIndex
from app.shard.recall import K, recall
from app.shard.tune_data import Tell, TunedGraph, TunedShard

DEFAULT_EF = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
HELD_OUT_QUERIES = 200
HYBRID_LEAST_EF = 48  # a hybrid search for K documents takes the best 2K by meaning: see Queries.least_ef
_ROUNDS = 3
_LEAST_SAMPLES = 300  # of one setting: the p99 of fewer is nearly their maximum
_MOST_TIMED = 300  # queries in a round; recall is of all
_QUERIES_AT_ONCE = 32  # exact scans hold a score for each query and chunk: 128 MB at a million chunks
_TRIALS = K / 2  # that a query's K documents count for at most: they are missed together more often than by chance
_SURE = 1.96  # standard errors to either side: 95 %
_SEED = 10


@dataclass(frozen=True, slots=True)
class Queries:
    """Query vectors, shape (n, dim), float32, unit length.

    source: "worker", "file" or "chunks". own: where the queries are chunks of the shard, the document of each, which is
    left out of what should be found and of what is.
    """

    source: str
    vectors: NDArray[np.float32]
    own: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def depth(self) -> int:
        """Documents to ask for, so that K others than its own are among them."""
        return K if self.own is None else K + 1

    @property
    def least_ef(self) -> int:
        """HnswIndex asks its graph for so many chunks, and hnswlib's ef is never less than that."""
        return 2 * self.depth + 8


@dataclass(frozen=True, slots=True)
class Point:
    """One value of ef_search. recalls: of each query, shape (n,). Times of one query in the shard, one thread."""

    ef: int
    recalls: NDArray[np.float64]
    p50_ms: float
    p99_ms: float

    @property
    def recall(self) -> float:
        """Mean recall@10 by documents."""
        return float(self.recalls.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Where the recall over all such queries lies with 95 % certainty.

        Wilson's interval; how many trials a query counts for follows from how much queries differ.
        """
        count, mean = len(self.recalls), self.recall
        variance = float(self.recalls.var())
        trials = count * (min(_TRIALS, max(1.0, mean * (1 - mean) / variance)) if variance else _TRIALS)
        spread = _SURE**2 / trials
        middle = (mean + spread / 2) / (1 + spread)
        half = math.sqrt(mean * (1 - mean) * spread + spread**2 / 4) / (1 + spread)
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def error(self) -> float:
        """Half the width of the interval."""
        low, high = self.interval
        return (high - low) / 2

    def gain_over(self, other: Point) -> tuple[float, float]:
        """Recall more than at another setting, and the error of that: smaller than theirs, the queries are the same."""
        difference = self.recalls - other.recalls
        return float(difference.mean()), _SURE * float(difference.std()) / math.sqrt(len(difference))


@dataclass(frozen=True, slots=True)
class GraphResult:
    """What was measured of one graph; points by rising ef. build_s: None for the worker's own."""

    m: int
    ef_construction: int
    build_s: float | None
    bytes_per_chunk: float
    dead_ratio: float
    points: list[Point]


def held_out(shard: TunedShard) -> Queries:
    """Chunks in place of queries, where nobody knows real ones; always the same of the same rows."""
    alive = shard.alive.tolist()
    chosen = sorted(random.Random(_SEED).sample(alive, min(HELD_OUT_QUERIES, len(alive))))  # noqa: S311
    return Queries("chunks", shard.rows.vectors[chosen].astype(np.float32), shard.rows.doc[chosen])


def exact_truth(index: HnswIndex, queries: Queries, tell: Tell) -> list[dict[int, float]]:
    """Per query the K best documents among all chunks, with their scores."""
    generation = index.generation
    alive = np.flatnonzero(generation.alive)
    truth: list[dict[int, float]] = []
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        tell(first, len(queries))
        asked = queries.vectors[first : first + _QUERIES_AT_ONCE]
        for number, row in enumerate(generation.scores(asked, alive), first):
            best = generation.best(alive, row, queries.depth)
            truth.append({item.doc: item.score for item in _others(best, queries, number)})
    return truth


def measure(
    graphs: Sequence[TunedGraph], efs: Sequence[int], queries: Queries, truth: Sequence[dict[int, float]], tell: Tell
) -> list[GraphResult]:
    """Search every graph with every ef: once for recall and to warm up, then timed in rounds that take turns."""
    runs = [(number, ef) for number in range(len(graphs)) for ef in efs]
    timed = queries.vectors[:: math.ceil(len(queries) / _MOST_TIMED)]
    rounds = max(_ROUNDS, math.ceil(_LEAST_SAMPLES / len(timed)))
    recalls: dict[tuple[int, int], NDArray[np.float64]] = {}
    times: dict[tuple[int, int], list[NDArray[np.float64]]] = {run: [] for run in runs}
    order, shuffle = list(runs), random.Random(_SEED).shuffle  # noqa: S311
    with threadpool_limits(1, user_api="blas"):  # as in the index worker
        for turn in range(rounds + 1):
            for done, run in enumerate(order, turn * len(runs)):
                tell(done, (rounds + 1) * len(runs))
                asked = timed if turn else queries.vectors
                found, spent = _search_all(graphs[run[0]], run[1], asked, queries.depth)
                if turn:
                    times[run].append(spent)
                else:
                    recalls[run] = _recalls(found, queries, truth)
            shuffle(order)
    return [
        GraphResult(
            m=graph.m,
            ef_construction=graph.ef_construction,
            build_s=graph.build_s,
            bytes_per_chunk=graph.bytes_per_chunk,
            dead_ratio=graph.dead_ratio,
            points=[_point(ef, recalls[number, ef], times[number, ef]) for ef in efs],
        )
        for number, graph in enumerate(graphs)
    ]


def _search_all(
    graph: TunedGraph, ef: int, vectors: NDArray[np.float32], depth: int
) -> tuple[list[list[Ranked]], NDArray[np.float64]]:
    """What each query finds, and the seconds it took."""
    graph.graph.set_ef(ef)
    search, clock = graph.index.search, time.perf_counter
    found = []
    spent = np.empty(len(vectors))
    for number, query in enumerate(vectors):
        began = clock()
        ranked = search(query, depth)
        spent[number] = clock() - began
        found.append(ranked)
    return found, spent


def _recalls(found: Sequence[list[Ranked]], queries: Queries, truth: Sequence[dict[int, float]]) -> NDArray[np.float64]:
    values = (recall(_others(ranked, queries, number), truth[number]) for number, ranked in enumerate(found))
    return np.array([1.0 if value is None else value for value in values])  # None: there was nothing to find


def _others(ranked: list[Ranked], queries: Queries, number: int) -> list[Ranked]:
    """The best K that are not the query's own document."""
    own = -1 if queries.own is None else int(queries.own[number])
    return [item for item in ranked if item.doc != own][:K]


def _point(ef: int, recalls: NDArray[np.float64], times: list[NDArray[np.float64]]) -> Point:
    p50_ms, p99_ms = np.percentile(np.concatenate(times), (50, 99)) * 1000
    return Point(ef, recalls, float(p50_ms), float(p99_ms))
