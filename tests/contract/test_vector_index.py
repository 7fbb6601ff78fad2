"""One suite over the index and its oracle: what is published is found, what is removed is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.shard.exact import ExactIndex
from app.shard.generation import Ranked, Rows
from app.shard.graph import Graph, Reached
from app.shard.index import HnswIndex, VectorIndex
from app.shard.rebuild import Rebuild
from schemas.filters import Filter, parse_filter
from tests.unit.shard.parts import DIM, random_units, unit

Make = Callable[[], VectorIndex]
ALL_AT_ONCE = 1.0  # of a core, for a rebuild


def hnsw(limit: int) -> HnswIndex:
    def make_graph(capacity: int) -> Graph:
        return Graph(DIM, m=64, ef_construction=512, ef_search=512, capacity=max(16, capacity))

    return HnswIndex(make_graph, limit, Rows.empty(4, DIM, np.float16))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph takes what is left without waiting for a second of quiet."""
    monkeypatch.setattr("app.shard.index._QUIET_S", -1.0)


def absorb_all(index: VectorIndex) -> None:
    while isinstance(index, HnswIndex) and index.absorb():
        pass


@pytest.fixture(params=["exact", "buffer", "graph", "rebuilt"])
def make(request: pytest.FixtureRequest) -> Make:
    """buffer: an index that absorbs nothing; graph: one that absorbs at once; rebuilt: anew after every step."""
    rebuilt = {"rebuilt": lambda: RebuiltIndex(hnsw(1))}
    makers: dict[str, Make] = {"exact": ExactIndex, "buffer": lambda: hnsw(10_000), "graph": lambda: hnsw(1)}
    return (makers | rebuilt)[request.param]


class RebuiltIndex:
    """An HnswIndex that is rebuilt after every change."""

    def __init__(self, index: HnswIndex) -> None:
        self._index = index

    def publish(self, *change: Any) -> None:
        self._index.publish(*change)
        assert Rebuild(self._index, ALL_AT_ONCE).run()
        assert self._index.dead_ratio == 0

    def search(self, query: NDArray[np.float32], k: int, parsed: Filter | None = None) -> list[Ranked]:
        return self._index.search(query, k, parsed)


@pytest.fixture
def index(make: Make) -> VectorIndex:
    return make()


def publish(
    index: VectorIndex, rows: dict[int, tuple[int, NDArray[np.float32]]], removed: list[int] | None = None
) -> None:
    """rows: label → (doc, vector); the document is in the metadata as well."""
    vectors = np.stack([row[1] for row in rows.values()]) if rows else np.empty((0, DIM), np.float32)
    docs = [row[0] for row in rows.values()]
    index.publish(list(rows), docs, vectors, removed or [], [{"doc": doc} for doc in docs])
    absorb_all(index)


def allow(*docs: int) -> Filter:
    return parse_filter({"doc": list(docs)})


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


def test_a_document_of_many_equal_chunks_does_not_hide_others_of_the_same_vector(index: VectorIndex) -> None:
    publish(index, {5 + n: (1, unit(1)) for n in range(60)} | {99: (2, unit(1)), 100: (3, unit(1))})
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


@pytest.mark.parametrize("allowed", [1, 2, 5, 20, 60, 119, 120])
def test_a_filter_that_lets_so_many_through_returns_as_many_as_are_asked_for(index: VectorIndex, allowed: int) -> None:
    """Also where what is allowed is the farthest from the query, so that the graph finds the others first."""
    publish(index, {5 + n: (n, unit(1, n / 20)) for n in range(120)})
    far = tuple(range(120 - allowed, 120))
    assert [item.doc for item in index.search(unit(1), 10, allow(*far))] == list(far[:10])


STEPS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(0, 10_000)), min_size=1, max_size=12
)  # document, chunks (0: a delete), seed


@settings(max_examples=50, deadline=None)
@given(
    STEPS, st.integers(0, 10_000), st.integers(1, 8), st.sets(st.integers(1, 7)), st.sampled_from([1, 4, 1000]),
    st.integers(0, 11),
)  # fmt: skip
def test_the_index_finds_what_its_oracle_finds(
    steps: list[tuple[int, int, int]], seed: int, k: int, allowed: set[int], limit: int, rebuild_at: int
) -> None:
    tested, oracle = hnsw(limit), ExactIndex()
    held: dict[int, list[int]] = {}
    label = 5
    (query,) = random_units(1, seed)
    for number, (document, chunks, seed_of_step) in enumerate(steps):
        labels = list(range(label, label + chunks))
        label += chunks
        vectors = random_units(chunks, seed_of_step).astype(np.float16).astype(np.float32)
        for index in (tested, oracle):
            index.publish(labels, [document] * chunks, vectors, held.get(document, []), [{"doc": document}] * chunks)
        held[document] = labels
        tested.absorb()
        if number == rebuild_at:
            assert Rebuild(tested, ALL_AT_ONCE).run()
        assert tested.generation.chunks == sum(map(len, held.values()))
        for parsed in (None, allow(*allowed)):
            mine, right = tested.search(query, k, parsed), oracle.search(query, 100, parsed)
            scores = {item.doc: item.score for item in right}  # equal ones may come in another order
            assert [item.score for item in mine] == pytest.approx([item.score for item in right[:k]], abs=2e-3)
            assert [item.score for item in mine] == pytest.approx([scores[item.doc] for item in mine], abs=2e-3)
            assert len({item.doc for item in mine}) == len(mine)


def test_the_graph_takes_the_buffer_a_slice_at_a_time() -> None:
    index = hnsw(limit=10)
    vectors = random_units(40, 1)
    index.publish(range(5, 14), range(9), vectors[:9], [])
    assert not index.absorb()
    index.publish(range(14, 45), range(9, 40), vectors[9:], [])
    index._row_s = 1.0  # an insertion as slow as that: one row a slice
    assert index.absorb()
    assert (index.buffered, index.generation.chunks) == (39, 40)
    index._row_s = 1e-6
    absorb_all(index)
    assert index.buffered == 0
    assert [item.doc for item in index.search(vectors[3], 1)] == [3]


def test_who_publishes_waits_while_the_buffer_is_full_and_until_the_graph_has_kept_up() -> None:
    index = hnsw(limit=10)
    index.publish(range(5, 24), range(19), random_units(19, 1), [])
    assert index.make_room(19, 0.0)
    index.publish([44], [39], random_units(1, 2), [])
    assert not index.make_room(1, 0.0)
    index.absorb()
    assert index.make_room(1, 0.0)


def test_rows_that_died_before_they_were_absorbed_are_passed_over() -> None:
    index = hnsw(limit=1)
    vectors = random_units(10, 4)
    labels = list(range(5, 5 + len(vectors)))
    index.publish(labels, labels, vectors, [])
    index.publish([], [], vectors[:0], labels[:8])
    absorb_all(index)
    assert (index.buffered, index.generation.chunks, index.generation.graph.count) == (0, 2, 2)
    assert {item.label for item in index.search(vectors[-1], 5)} == set(labels[-2:])


def test_a_row_that_dies_while_the_graph_takes_it_is_removed_from_the_graph_afterwards() -> None:
    index = hnsw(limit=1)
    vectors = random_units(8, 4)
    index.publish(range(5, 13), range(8), vectors, [])
    graph = index.generation.graph
    add = graph.add

    def add_and_die(*rows: Any) -> None:
        add(*rows)
        index.publish([], [], vectors[:0], [5])

    graph.add = add_and_die  # type: ignore[method-assign]
    index.absorb()
    graph.add = add  # type: ignore[method-assign]
    absorb_all(index)
    assert graph.dead == 1
    assert 5 not in {item.label for item in index.search(vectors[0], 8)}


def test_removed_points_of_the_graph_are_counted_as_dead_until_it_is_rebuilt() -> None:
    index = hnsw(limit=1)
    publish(index, {label: (label, vector) for label, vector in enumerate(random_units(20, 2), 5)})
    publish(index, {}, removed=list(range(5, 15)))
    assert (index.dead_ratio, index.generation.chunks) == (0.5, 10)
    assert Rebuild(index, ALL_AT_ONCE).run()
    assert (index.dead_ratio, index.generation.chunks, index.generation.end) == (0.0, 10, 10)


def test_the_graph_grows_past_its_first_capacity() -> None:
    index = hnsw(limit=1)
    vectors = random_units(300, 3)
    publish(index, {label: (label, vector) for label, vector in enumerate(vectors, 5)})
    assert [index.search(vector, 1)[0].label for vector in vectors] == list(range(5, 305))


def test_points_that_the_graph_does_not_reach_are_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    index = hnsw(limit=1)
    vectors = random_units(30, 3)
    publish(index, {label: (label, vector) for label, vector in enumerate(vectors, 5)})
    graph = index.generation.graph
    search = graph.search
    monkeypatch.setattr(graph, "search", lambda query, k: _first(4, search(query, k)))
    assert len(index.search(vectors[0], 30)) == 30


def _first(count: int, found: Reached) -> Reached:
    return Reached(found.rows[:count], found.scores[:count], count)


def test_copies_do_not_stand_in_for_points_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    index = hnsw(limit=1)
    vectors = [*np.repeat(unit(1)[np.newaxis], 30, axis=0), *random_units(10, 3)]
    publish(index, {label: (label, vector) for label, vector in enumerate(vectors, 5)})
    graph = index.generation.graph
    search = graph.search
    monkeypatch.setattr(graph, "search", lambda query, k: search(query, min(k, 6)))
    assert len(index.search(unit(1), 40)) == 40


def test_what_comes_and_goes_while_a_graph_is_rebuilt_is_in_the_new_one() -> None:
    index = hnsw(limit=1)
    vectors = random_units(200, 5)
    publish(index, {label: (label, vectors[label]) for label in range(100)})
    rebuild = Rebuild(index, ALL_AT_ONCE)
    link, steps = rebuild._link, iter(range(3))

    def link_and_change(stop: int) -> None:
        link(stop)
        if (step := next(steps, None)) is not None:
            new = range(100 + 20 * step, 120 + 20 * step)
            publish(
                index, {label: (label, vectors[label]) for label in new}, removed=list(range(10 * step, 10 * step + 10))
            )

    rebuild._link = link_and_change  # type: ignore[method-assign]
    assert rebuild.run()
    living = set(range(30, 160))
    assert index.generation.chunks == len(living)
    assert {item.label for item in index.search(vectors[0], 200)} == living
    assert [index.search(vectors[label], 1)[0].label for label in sorted(living)] == sorted(living)


def test_a_rebuild_that_is_stopped_leaves_everything_as_it_was() -> None:
    index = hnsw(limit=1)
    publish(index, {label: (label, vector) for label, vector in enumerate(random_units(20, 2), 5)})
    before = index.generation
    rebuild = Rebuild(index, ALL_AT_ONCE)
    rebuild.stop()
    assert not rebuild.run()
    assert index.generation is before
