"""A change of metadata or version alone: the same vectors, and so no new points in the graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.shard.graph import Graph
from app.shard.shard import Shard
from schemas.filters import parse_filter
from tests.unit.shard.parts import document, drain, found, open_shard, random_units

DOCUMENTS = 100
VECTORS = random_units(2 * DOCUMENTS, 1)


def graph(shard: Shard) -> Graph:
    assert shard._index is not None
    return shard._index.generation.graph


def change(shard: Shard, offset: int, metadata: dict[str, int], count: int = DOCUMENTS) -> None:
    """The same chunks once more, two for each document, with other metadata and a new version."""
    shard.apply(
        [
            document(offset + n, f"d{n}", VECTORS[2 * n : 2 * n + 2], metadata=metadata, version=offset)
            for n in range(count)
        ]
    )


@pytest.fixture(params=["at once", "in quiet times"])
def shard(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shard:
    """Absorbed, as the graph does while changes come, and when none has come for a second."""
    monkeypatch.setattr("app.shard.index._QUIET_S", -1.0 if request.param == "in quiet times" else 3600.0)
    opened = open_shard(tmp_path, write_buffer_rows=1)
    change(opened, 1, {"round": 1})
    drain(opened)
    assert graph(opened).count == 2 * DOCUMENTS
    return opened


@pytest.mark.parametrize("count", [1, 10, DOCUMENTS])
def test_a_change_of_metadata_alone_puts_no_point_into_the_graph(shard: Shard, count: int) -> None:
    for n in range(1, 4):
        change(shard, 1000 * n, {"round": 1 + n}, count)
        drain(shard)
        assert shard.status().buffered == 0
        assert (graph(shard).count, graph(shard).dead) == (2 * DOCUMENTS, 0)
    shard.close()


def test_a_change_of_metadata_alone_is_found_by_the_new_metadata_and_not_by_the_old(shard: Shard) -> None:
    change(shard, 1000, {"round": 2})
    drain(shard)
    assert found(shard, VECTORS[0], 1) == ["d0"]
    new, old = (shard.search(VECTORS[0], 1, parse_filter({"round": n}), None) for n in (2, 1))
    assert [hit.document.id for hit in new] == ["d0"]
    assert old == []
    shard.close()
