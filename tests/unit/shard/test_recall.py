"""Measured recall: what share of the truth a graph finds, over recent queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.shard.generation import Ranked, Rows
from app.shard.graph import Graph, Reached
from app.shard.index import HnswIndex
from app.shard.recall import K, RecallMeter, recall
from tests.unit.shard.parts import DIM, random_units, unit

VECTORS = random_units(80, 2)
LABELS = range(4, 84)  # as even or odd as their rows


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> HnswIndex:
    monkeypatch.setattr("app.shard.index._QUIET_S", -1.0)
    return of(VECTORS)


def of(vectors: Any) -> HnswIndex:
    made = HnswIndex(lambda capacity: Graph(DIM, 64, 512, 512, max(16, capacity)), 1, Rows.empty(4, DIM, np.float32))
    made.publish(LABELS[: len(vectors)], range(len(vectors)), vectors, [])
    while made.absorb():
        pass
    return made


def damage(index: HnswIndex, keeps: Any) -> None:
    """Let the graph find only points for whose numbers `keeps` holds."""
    graph = index.generation.graph
    search = graph.search

    def worse(query: Any, k: int) -> Any:
        labels, scores, _ = search(query, k)
        kept = keeps(labels)
        return Reached(labels[kept], scores[kept], int(kept.sum()))

    graph.search = worse  # type: ignore[method-assign]


def measured(index: HnswIndex, queries: Any) -> float | None:
    meter = RecallMeter()
    for query in queries:
        meter.saw(query)
        meter.measure(index)
    return meter.value


def test_a_good_graph_finds_everything(index: HnswIndex) -> None:
    assert measured(index, random_units(12, 5)) == pytest.approx(1.0)


def test_what_a_bad_graph_misses_is_measured_exactly(index: HnswIndex) -> None:
    queries = random_units(12, 5)
    truth = [np.argsort(-(VECTORS @ query))[:K] for query in queries]
    damage(index, lambda numbers: numbers % 2 == 1)
    odd = float(np.mean([(rows % 2 == 1).mean() for rows in truth]))
    assert 0.2 < odd < 0.8
    assert measured(index, queries) == pytest.approx(odd)


def test_without_queries_or_documents_nothing_is_measured(index: HnswIndex) -> None:
    meter = RecallMeter()
    assert (meter.measure(index), meter.value, meter.samples, meter.recent().shape) == (0, None, 0, (0, 0))
    index.publish([], [], VECTORS[:0], list(LABELS))
    meter.saw(unit(1))
    assert (meter.measure(index), meter.value, meter.samples) == (1, None, 0)


def test_another_document_of_the_same_score_is_as_good(index: HnswIndex) -> None:
    same = of(np.tile(unit(1), (40, 1)))
    damage(same, lambda numbers: numbers % 2 == 1)
    assert measured(same, [unit(1)]) == 1.0


def test_a_query_is_measured_once_and_only_the_newest_are(index: HnswIndex) -> None:
    meter = RecallMeter()
    queries = random_units(10, 7)
    for query in queries:
        meter.saw(query)
    assert (meter.measure(index), meter.samples) == (4, 4)
    assert meter.measure(index) == 0
    np.testing.assert_array_equal(meter.recent(), queries)


def test_the_mean_is_of_the_last_queries_and_forgets_the_graph_before_a_rebuild(index: HnswIndex) -> None:
    meter = RecallMeter()

    def ask(count: int) -> None:
        for at in range(0, count, 4):
            for query in random_units(4, at):
                meter.saw(query)
            meter.measure(index)

    ask(4)
    damage(index, lambda numbers: numbers < 0)  # finds nothing any more; the index scans instead
    ask(64)
    assert meter.samples == 64
    meter.forget()
    assert (meter.value, meter.samples) == (None, 0)
    assert len(meter.recent()) == 64


def test_what_comes_or_goes_during_the_measurement_is_neither_missed_nor_counted(index: HnswIndex) -> None:
    """Both before and after a search are right; the measurement asks only for what was there all the time."""
    graph = index.generation.graph
    search = graph.search
    query = VECTORS[0]

    def search_and_change(*given: Any) -> Any:
        found = search(*given)
        if index.generation.sequence == 1:
            index.publish([100, 101], [100, 101], np.stack([query, query]), [LABELS[0], LABELS[1]])
        return found

    graph.search = search_and_change  # type: ignore[method-assign]
    assert measured(index, [query]) == 1.0
    assert index.generation.sequence == 2


def test_recall_counts_documents_and_never_more_than_all() -> None:
    truth = {1: 0.9, 2: 0.8}
    assert recall([Ranked(1, 5, 0.9), Ranked(9, 6, 0.5)], truth) == 0.5
    assert recall([Ranked(1, 5, 0.9), Ranked(2, 6, 0.8), Ranked(3, 7, 0.8)], truth) == 1.0
    assert recall([], truth) == 0.0
    assert recall([Ranked(1, 5, 0.9)], {}) is None
