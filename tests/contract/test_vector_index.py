"""One suite over the index and its oracle: what is published is found, what is removed is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.shard.exact import ExactIndex
from app.shard.generation import Ranked
from app.shard.graph import Graph
from app.shard.index import SLICE_ROWS, HnswIndex, Mask, VectorIndex
from tests.unit.shard.parts import DIM, random_units, unit

Make = Callable[[], VectorIndex]


def hnsw(rows: int) -> HnswIndex:
    return HnswIndex(DIM, Graph(DIM, m=64, ef_construction=512, ef_search=512), first_label=5, rows=rows)


def absorb_all(index: VectorIndex) -> None:
    while isinstance(index, HnswIndex) and index.absorb(pressed=False):
        pass


@pytest.fixture(params=["exact", "buffer", "graph"])
def make(request: pytest.FixtureRequest) -> Make:
    """buffer: an index that absorbs nothing; graph: one that absorbs at once."""
    return {"exact": lambda: ExactIndex(DIM), "buffer": lambda: hnsw(10_000), "graph": lambda: hnsw(1)}[request.param]


@pytest.fixture
def index(make: Make) -> VectorIndex:
    return make()


def publish(
    index: VectorIndex, rows: dict[int, tuple[int, NDArray[np.float32]]], removed: list[int] | None = None
) -> None:
    """rows: label → (doc, vector)."""
    vectors = np.stack([row[1] for row in rows.values()]) if rows else np.empty((0, DIM), np.float32)
    index.publish(list(rows), [row[0] for row in rows.values()], vectors, removed or [])
    absorb_all(index)


def allow(*docs: int) -> Mask:
    mask = np.zeros(max(docs, default=0) + 2, np.bool_)
    mask[list(docs)] = True
    return mask


def pairs(ranked: list[Ranked]) -> list[tuple[int, int]]:
    return [(item.doc, item.label) for item in ranked]


def test_an_empty_index_finds_nothing(index: VectorIndex) -> None:
    assert index.search(unit(1), 5) == []
    assert index.search(unit(1), 5, allow(1)) == []


def test_the_best_documents_come_first_with_their_inner_product(index: VectorIndex) -> None:
    publish(index, {5: (1, unit(1, 0)), 6: (2, unit(1, 1)), 7: (3, unit(0, 1))})
    ranked = index.search(unit(1, 0), 3)
    assert pairs(ranked) == [(1, 5), (2, 6), (3, 7)]
    assert [item.score for item in ranked] == pytest.approx([1, 0.7071, 0], abs=1e-3)
    assert pairs(index.search(unit(1, 0), 2)) == [(1, 5), (2, 6)]


def test_a_document_is_found_once_by_its_best_chunk(index: VectorIndex) -> None:
    publish(index, {5: (1, unit(1, 0)), 6: (1, unit(0, 1)), 7: (2, unit(1, 2))})
    assert pairs(index.search(unit(0, 1), 5)) == [(1, 6), (2, 7)]


def test_a_document_of_many_chunks_does_not_crowd_out_the_others(index: VectorIndex) -> None:
    rows = {5 + n: (1, unit(1, n / 1000)) for n in range(60)} | {99: (2, unit(0, 1)), 100: (3, unit(-1))}
    publish(index, rows)
    assert [item.doc for item in index.search(unit(1), 3)] == [1, 2, 3]


def test_an_update_in_one_step_replaces_the_old_chunks(index: VectorIndex) -> None:
    publish(index, {5: (1, unit(1)), 6: (2, unit(0, 1))})
    publish(index, {7: (1, unit(0, 0, 1))}, removed=[5])
    assert pairs(index.search(unit(1), 5)) == [(2, 6), (1, 7)]
    publish(index, {}, removed=[7, 6])
    assert index.search(unit(1), 5) == []


def test_equal_scores_come_in_the_order_of_their_labels(index: VectorIndex) -> None:
    publish(index, {label: (label, unit(1)) for label in range(5, 12)})
    assert pairs(index.search(unit(1), 3)) == [(5, 5), (6, 6), (7, 7)]


def test_a_filter_lets_only_allowed_documents_through(index: VectorIndex) -> None:
    publish(index, {5 + n: (n, unit(1, n)) for n in range(20)})
    assert [item.doc for item in index.search(unit(1), 3, allow(4, 11, 17))] == [4, 11, 17]
    assert [item.doc for item in index.search(unit(1), 2, allow(4, 11, 17))] == [4, 11]
    assert index.search(unit(1), 3, allow()) == []
    assert index.search(unit(1), 3, allow(99)) == []


def test_a_document_beyond_the_mask_is_not_allowed(index: VectorIndex) -> None:
    """It was added after the filter was looked up."""
    publish(index, {5: (1, unit(1)), 6: (9, unit(1))})
    assert pairs(index.search(unit(1), 5, allow(1))) == [(1, 5)]


STEPS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(0, 10_000)), min_size=1, max_size=12
)  # document, chunks (0: a delete), seed


@settings(max_examples=50, deadline=None)
@given(STEPS, st.integers(0, 10_000), st.integers(1, 8), st.sets(st.integers(1, 7)), st.sampled_from([1, 4, 1000]))
def test_the_index_finds_what_its_oracle_finds(
    steps: list[tuple[int, int, int]], seed: int, k: int, allowed: set[int], rows: int
) -> None:
    tested, oracle = hnsw(rows), ExactIndex(DIM)
    held: dict[int, list[int]] = {}
    label = 5
    (query,) = random_units(1, seed)
    for document, chunks, seed_of_step in steps:
        labels = list(range(label, label + chunks))
        label += chunks
        vectors = random_units(chunks, seed_of_step).astype(np.float16).astype(np.float32)
        for index in (tested, oracle):
            index.publish(labels, [document] * chunks, vectors, held.get(document, []))
        held[document] = labels
        tested.absorb(pressed=False)
        assert tested.chunks == sum(map(len, held.values()))
        for mask in (None, allow(*allowed)):
            mine, right = tested.search(query, k, mask), oracle.search(query, 100, mask)
            scores = {item.doc: item.score for item in right}  # equal ones may come in another order
            assert [item.score for item in mine] == pytest.approx([item.score for item in right[:k]], abs=2e-3)
            assert [item.score for item in mine] == pytest.approx([scores[item.doc] for item in mine], abs=2e-3)
            assert len({item.doc for item in mine}) == len(mine)


def test_the_buffer_waits_while_records_wait_and_is_absorbed_a_slice_at_a_time() -> None:
    index = hnsw(rows=10)
    vectors = random_units(40, 1)
    index.publish(range(5, 44), range(39), vectors[:39], [])
    assert not index.absorb(pressed=True)
    index.publish([44], [39], vectors[39:], [])
    assert index.absorb(pressed=True)
    assert (index.buffered, index.chunks) == (40 - SLICE_ROWS, 40)
    absorb_all(index)
    assert index.buffered < 10
    assert [item.doc for item in index.search(vectors[3], 1)] == [3]


def test_a_slice_of_the_buffer_that_died_before_it_was_absorbed_is_passed_over() -> None:
    index = hnsw(rows=1)
    vectors = random_units(SLICE_ROWS + 2, 4)
    labels = list(range(5, 5 + len(vectors)))
    index.publish(labels, labels, vectors, [])
    index.publish([], [], vectors[:0], labels[:SLICE_ROWS])
    absorb_all(index)
    assert (index.buffered, index.chunks) == (0, 2)
    assert [item.label for item in index.search(vectors[-1], 5)] == [labels[-1], labels[-2]]


def test_removed_points_of_the_graph_are_counted_as_dead() -> None:
    index = hnsw(rows=1)
    publish(index, {label: (label, vector) for label, vector in enumerate(random_units(20, 2), 5)})
    publish(index, {}, removed=list(range(5, 15)))
    assert (index.graph_dead_ratio, index.chunks) == (0.5, 10)


def test_the_graph_grows_past_its_first_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.shard.graph.FIRST_CAPACITY", 16)
    index = hnsw(rows=1)
    vectors = random_units(300, 3)
    publish(index, {label: (label, vector) for label, vector in enumerate(vectors, 5)})
    assert [index.search(vector, 1)[0].label for vector in vectors] == list(range(5, 305))
