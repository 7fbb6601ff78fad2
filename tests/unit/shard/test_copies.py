"""Rows with the very same vector share a point: each is found, each goes alone, and none hides what is beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.shard.graph import Graph
from app.shard.rebuild import Rebuild
from app.shard.shard import Shard
from tests.unit.shard.parts import delete, document, drain, found, open_shard, random_units, unit
from tests.unit.shard.test_snapshot import save

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shard:
    """Four documents of one vector, and one of another, in the graph."""
    monkeypatch.setattr("app.shard.index._QUIET_S", -1.0)
    opened = open_shard(tmp_path, write_buffer_rows=1)
    opened.apply([document(n, name, unit(1)) for n, name in enumerate(NAMES)])
    opened.apply([document(4, "other", unit(0, 1))])
    drain(opened)
    return opened


def points(shard: Shard) -> int:
    assert shard._index is not None
    return shard._index.generation.graph.living


def test_each_document_of_a_shared_vector_is_found_in_the_order_of_their_labels(shard: Shard) -> None:
    assert points(shard) == 2
    assert found(shard, unit(1)) == [*NAMES, "other"]
    assert found(shard, unit(1), 2) == ["a", "b"]
    shard.close()


@pytest.mark.parametrize("gone", [["a"], ["d"], ["a", "b", "c"], NAMES])
def test_documents_of_a_shared_vector_go_alone_and_the_point_with_the_last(shard: Shard, gone: list[str]) -> None:
    shard.apply([delete(10 + n, name) for n, name in enumerate(gone)])
    drain(shard)
    left = [name for name in NAMES if name not in gone]
    assert points(shard) == (2 if left else 1)
    assert found(shard, unit(1)) == [*left, "other"]
    shard.apply([document(20, "new", unit(1))])
    drain(shard)
    assert points(shard) == 2
    assert found(shard, unit(1)) == [*left, "new", "other"]
    shard.close()


@pytest.mark.parametrize("after", ["rebuild", "restart"])
@pytest.mark.parametrize("gone", [["a"], ["b", "d"], NAMES])
def test_shared_vectors_outlive_a_rebuild_and_a_restart(
    shard: Shard, tmp_path: Path, gone: list[str], after: str
) -> None:
    assert shard._index is not None
    if after == "rebuild":
        shard.apply([delete(10 + n, name) for n, name in enumerate(gone)])
        assert Rebuild(shard._index, 1.0).run()
    else:
        assert save(shard)
        shard.apply([delete(10 + n, name) for n, name in enumerate(gone)])  # the snapshot does not know
        shard.close()
        shard = open_shard(tmp_path, write_buffer_rows=1)
        assert shard.status().buffered == 0
    left = [name for name in NAMES if name not in gone]
    assert points(shard) == (2 if left else 1)
    assert found(shard, unit(1)) == [*left, "other"]
    shard.apply([document(20, "new", unit(1))])
    drain(shard)
    assert found(shard, unit(1)) == [*left, "new", "other"]
    shard.close()


def test_unique_vectors_are_found_beside_hundreds_of_copies() -> None:
    """With the default parameters: without sharing, a third of them was found."""
    rng = np.random.default_rng(1)
    boilerplate, own = (random_wide(count, rng) for count in (10, 100))
    vectors = np.concatenate((np.repeat(boilerplate, 200, axis=0), own))
    graph = Graph(64, 16, 100, 96)
    graph.add(vectors, np.arange(len(vectors)))
    assert graph.count == 110
    assert [graph.search(vector, 1)[0].tolist() for vector in own] == [[2000 + n] for n in range(100)]


def random_wide(count: int, rng: np.random.Generator) -> np.ndarray:
    vectors = rng.standard_normal((count, 64)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_copies_that_come_in_one_call_share_a_point_too() -> None:
    graph = Graph(8, 16, 100, 96)
    graph.add(np.stack([*random_units(2, 1), *random_units(2, 1)]), np.arange(4))
    assert graph.count == 2
    assert sorted(graph.search(random_units(1, 1)[0], 4)[0].tolist()) == [0, 1, 2, 3]
