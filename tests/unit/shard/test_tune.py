"""Measuring a shard beside its worker: what is read, what is found, what is recommended, and what is drawn."""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from app.shard import tune_data, upkeep
from app.shard.shard import Shard
from app.shard.tune import GraphResult, Point, Queries, exact_truth, held_out, measure
from app.shard.tune_advice import advise
from app.shard.tune_data import (
    TunedShard,
    build_graph,
    choose_shard,
    read_shard,
    require_memory,
    shard_files,
    wanted_graphs,
)
from app.shard.tune_plot import plot
from schemas.errors import NotFound, SettingsError, ShardCorrupt
from tests.unit.shard.parts import DIM, delete, document, drain, open_shard, random_units, shard_settings


def silent(done: int, total: int) -> None:
    assert 0 <= done < total


@contextmanager
def worker(folder: Path, count: int = 300, *, snapshot: bool = True) -> Iterator[Shard]:
    """A shard that is open, with a snapshot of its graph."""
    shard = open_shard(folder, hnsw_m=8, hnsw_ef_construction=40, write_buffer_rows=1)
    vectors = random_units(count, seed=1)
    shard.apply([document(n, f"d{n}", vectors[n]) for n in range(count)])
    drain(shard)
    if snapshot:
        save(shard)
    yield shard
    shard.close()


def save(shard: Shard) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "_SNAPSHOT_POINTS", 1)
        patch.setattr(upkeep, "_SNAPSHOT_RATIO", 0)
        shard.maintain()


def read(folder: Path) -> TunedShard:
    return read_shard(folder / "shard-0.sqlite", shard_settings(folder), silent)


def asked(count: int = 40, seed: int = 2) -> Queries:
    return Queries("file", random_units(count, seed))


def measured(shard: TunedShard, *efs: int, queries: Queries | None = None) -> list[Point]:
    given = queries or asked()
    graph = shard.live or build_graph(shard, 8, 40, silent)
    (result,) = measure([graph], efs, given, exact_truth(graph.index, given, silent), silent)
    return result.points


def test_the_graph_of_a_running_worker_is_measured_and_its_files_stay_as_they_are(tmp_path: Path) -> None:
    with worker(tmp_path):
        before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        shard = read(tmp_path)
        assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == before
    assert shard.live is not None
    assert (shard.chunks, shard.dim, shard.trouble) == (300, DIM, None)
    assert (shard.live.m, shard.live.ef_construction, shard.live.build_s) == (8, 40, None)
    assert shard.live.dead_ratio == 0
    assert 4 * DIM < shard.live.bytes_per_chunk < 4 * DIM + 400


def test_what_came_and_went_since_the_snapshot_is_in_the_measured_graph_and_gone_from_it(tmp_path: Path) -> None:
    with worker(tmp_path) as owner:
        more = random_units(50, seed=3)
        owner.apply([document(300 + n, f"e{n}", more[n]) for n in range(50)])
        owner.apply([delete(400 + n, f"d{n}") for n in range(30)])
        owner.apply([document(500, "d299", -more[0])])
        shard = read(tmp_path)
        live = shard.live
        assert live is not None
        assert shard.chunks == live.graph.living == 320
        assert live.dead_ratio == pytest.approx(31 / 351)
        queries = Queries("file", more)
        truth = exact_truth(live.index, queries, silent)
        found = [owner.search(query, 10, None, None) for query in more]
        docs = {hit.document.id: hit.document.doc for hits in found for hit in hits}
        assert [set(item) for item in truth] == [{docs[hit.document.id] for hit in hits} for hits in found]
        (point,) = measured(shard, 400, queries=queries)
    assert point.recall == 1.0


def test_without_a_snapshot_there_is_no_graph_of_the_worker_and_one_can_be_built(tmp_path: Path) -> None:
    with worker(tmp_path, snapshot=False):
        shard = read(tmp_path)
    assert shard.live is None
    assert "has not written a snapshot" in str(shard.trouble)
    built = build_graph(shard, 4, 20, silent)
    assert (built.m, built.ef_construction, built.graph.living) == (4, 20, 300)
    assert built.build_s is not None


def test_a_damaged_snapshot_is_left_where_it_is_and_not_measured(tmp_path: Path) -> None:
    with worker(tmp_path):
        path = tmp_path / "shard-0.graph"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        shard = read(tmp_path)
        assert path.read_bytes() == content
    assert shard.live is None
    assert "checksum" in str(shard.trouble)
    assert shard.chunks == 300


def test_the_snapshot_of_another_shard_file_is_not_measured(tmp_path: Path) -> None:
    with worker(tmp_path / "a"), worker(tmp_path / "b"):
        (tmp_path / "a" / "shard-0.graph").replace(tmp_path / "b" / "shard-0.graph")
        shard = read(tmp_path / "b")
    assert shard.live is None
    assert shard.trouble == "it belongs to another shard file"


def test_a_wider_search_of_a_sparse_graph_finds_more(tmp_path: Path) -> None:
    with worker(tmp_path, 2000, snapshot=False):
        shard = read(tmp_path)
    sparse, queries = build_graph(shard, 4, 8, silent), asked(60)
    truth = exact_truth(sparse.index, queries, silent)
    (result,) = measure([sparse], [28, 64, 1000], queries, truth, silent)
    narrow, wider, widest = (point.recall for point in result.points)
    assert narrow < wider < widest
    assert widest > 0.97


def test_every_graph_is_measured_with_every_ef(tmp_path: Path) -> None:
    with worker(tmp_path):
        shard = read(tmp_path)
    assert shard.live is not None
    graphs = [shard.live, build_graph(shard, 16, 80, silent)]
    queries = asked()
    results = measure(graphs, [28, 64], queries, exact_truth(shard.live.index, queries, silent), silent)
    assert [(item.m, item.ef_construction, [point.ef for point in item.points]) for item in results] == [
        (8, 40, [28, 64]),
        (16, 80, [28, 64]),
    ]
    for point in (point for item in results for point in item.points):
        assert 0 < point.p50_ms <= point.p99_ms
        assert len(point.recalls) == len(queries)


def test_a_document_of_many_chunks_counts_once(tmp_path: Path) -> None:
    shard = open_shard(tmp_path, write_buffer_rows=1)
    near = random_units(1, seed=1)[0]
    shard.apply([document(0, "long", np.stack([near] * 8))])
    others = random_units(30, seed=5)
    shard.apply([document(1 + n, f"d{n}", others[n]) for n in range(30)])
    drain(shard)
    tuned = read(tmp_path)
    shard.close()
    queries = Queries("file", near[None])
    graph = build_graph(tuned, 8, 40, silent)
    (truth,) = exact_truth(graph.index, queries, silent)
    assert len(truth) == 10
    assert measured(tuned, 64, queries=queries)[0].recall == 1.0


def test_a_chunk_in_place_of_a_query_does_not_find_itself(tmp_path: Path) -> None:
    with worker(tmp_path):
        shard = read(tmp_path)
    queries = held_out(shard)
    assert shard.live is not None
    assert queries.own is not None
    assert len(queries) == 200
    truth = exact_truth(shard.live.index, queries, silent)
    assert all(int(own) not in item for own, item in zip(queries.own, truth, strict=True))
    assert {len(item) for item in truth} == {10}
    assert measured(shard, 300, queries=queries)[0].recall == 1.0


def test_a_shard_with_fewer_documents_than_asked_for_is_measured_with_what_it_has(tmp_path: Path) -> None:
    with worker(tmp_path, 3):
        shard = read(tmp_path)
    assert measured(shard, 28)[0].recall == 1.0
    assert measured(shard, 30, queries=held_out(shard))[0].recall == 1.0


# --- what cannot be measured


def test_a_folder_without_shards_says_what_to_set(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SettingsError, match="HEADRACE_DATA_DIR"):
            shard_files(Settings(_env_file=None, data_dir=folder))


def test_the_largest_shard_is_the_one_that_is_meant_unless_one_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "documents" / "replica-0"
    folder.mkdir(parents=True)
    for shard, size in ((0, 10), (3, 30), (11, 20)):
        (folder / f"shard-{shard}.sqlite").write_bytes(bytes(size))
    (folder / "shard-9.sqlite.unusable-1").write_bytes(bytes(99))
    files = shard_files(Settings(_env_file=None, data_dir=tmp_path))
    assert list(files) == [0, 3, 11]
    assert choose_shard(files, None) == 3
    (folder / "shard-0.sqlite-wal").write_bytes(bytes(25))
    assert choose_shard(files, None) == 0
    assert choose_shard(files, 11) == 11
    with pytest.raises(NotFound, match="only 0, 3, 11"):
        choose_shard(files, 9)


def test_an_empty_shard_says_that_documents_are_needed(tmp_path: Path) -> None:
    open_shard(tmp_path).close()
    with pytest.raises(NotFound, match="publish documents first"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no database" * 100])
def test_a_file_that_is_no_shard_is_named_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shard-0.sqlite"
    path.write_bytes(content)
    with pytest.raises(ShardCorrupt, match="Restart its index worker"):
        read(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE meta SET value = 1 WHERE name = 'format'", "has format 1"),
        ("UPDATE chunks SET vector = zeroblob(3) WHERE label = 7", "vectors of other lengths"),
    ],
)
def test_a_file_with_other_content_than_expected_is_refused(tmp_path: Path, change: str, told: str) -> None:
    with worker(tmp_path, 20):
        pass
    connection = sqlite3.connect(tmp_path / "shard-0.sqlite")
    connection.execute(change)
    connection.commit()
    connection.close()
    with pytest.raises(ShardCorrupt, match=told):
        read(tmp_path)


def test_graphs_that_would_take_the_workers_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with worker(tmp_path):
        shard = read(tmp_path)
    settings = shard_settings(tmp_path, memory_reserve_mb=100)
    monkeypatch.setattr(tune_data, "available_bytes", lambda: 100 * 2**20 + 400_000)
    require_memory(shard, 2, settings)
    with pytest.raises(SettingsError, match="HEADRACE_MEMORY_RESERVE_MB=100"):
        require_memory(shard, 8, settings)


def test_the_present_graph_comes_first_and_none_comes_twice() -> None:
    assert wanted_graphs((16, 100), [], []) == [(16, 100)]
    assert wanted_graphs((16, 100), [8, 16], []) == [(16, 100), (8, 100)]
    assert wanted_graphs((16, 100), [], [200]) == [(16, 100), (16, 200)]
    assert wanted_graphs((16, 100), [8, 16], [100, 200]) == [(16, 100), (8, 100), (8, 200), (16, 200)]


# --- how sure a measurement is


def point(ef: int, recall: float, p50_ms: float, queries: int = 400) -> Point:
    recalls = np.full(queries, recall)
    recalls[::2] = min(1.0, recall + 0.05)
    recalls[1::2] = 2 * recall - recalls[0]
    return Point(ef, recalls, p50_ms, 2 * p50_ms)


def test_more_queries_make_the_recall_surer() -> None:
    few, many = point(64, 0.9, 1, 20), point(64, 0.9, 1, 2000)
    assert few.error > 3 * many.error
    low, high = many.interval
    assert low < 0.9 < high


def test_a_few_queries_that_find_everything_prove_little() -> None:
    low, high = Point(64, np.ones(20), 1, 1).interval
    assert high == pytest.approx(1.0)
    assert low < 0.97
    assert Point(64, np.ones(2000), 1, 1).interval[0] > 0.999


def test_two_settings_are_compared_query_by_query() -> None:
    gain, error = point(96, 0.95, 1).gain_over(point(64, 0.9, 1))
    assert gain == pytest.approx(0.05)
    assert error < 0.001  # each query gains the same, however different they are


# --- what is recommended


def graph(m: int, *points: Point, ef_construction: int = 100) -> GraphResult:
    return GraphResult(m, ef_construction, None if m == 16 else 12.5, 1800.0 + 8 * m, 0.0, list(points))


PRESENT = graph(16, point(32, 0.90, 0.1), point(64, 0.96, 0.2), point(96, 0.98, 0.3))


def test_the_cheapest_that_reaches_the_target_is_recommended_with_what_it_costs() -> None:
    advice = advise([PRESENT], 96, 0.95)
    assert advice.verdict == "change"
    assert advice.environment == {"HEADRACE_HNSW_EF_SEARCH": "64"}
    assert "recall -0.020" in advice.text[1]
    assert "p50 -33%" in advice.text[1]
    assert "restart" in advice.text[1]


def test_the_present_setting_is_kept_where_it_is_the_cheapest() -> None:
    advice = advise([PRESENT], 64, 0.95)
    assert (advice.verdict, advice.environment) == ("keep", {})
    assert "keep it" in " ".join(advice.text)


def test_where_nothing_reaches_the_target_it_says_what_to_try() -> None:
    advice = advise([PRESENT], 64, 0.999)
    assert (advice.verdict, advice.choice, advice.environment) == ("none", None, {})
    text = " ".join(advice.text)
    assert "The best is ef_search 96" in text
    assert "headrace tune --ef 192,384 --m 32 --ef-construction 200" in text


def test_dead_points_are_named_where_the_target_is_missed() -> None:
    assert "20% of the present graph" in " ".join(advise([replace(PRESENT, dead_ratio=0.2)], 64, 0.999).text)


def test_another_graph_is_recommended_only_where_it_is_clearly_faster() -> None:
    little, much = graph(32, point(32, 0.96, 0.19)), graph(32, point(32, 0.96, 0.12), ef_construction=200)
    assert advise([PRESENT, little], 96, 0.95).environment == {"HEADRACE_HNSW_EF_SEARCH": "64"}
    advice = advise([PRESENT, little, much], 96, 0.95)
    assert advice.environment == {
        "HEADRACE_HNSW_EF_SEARCH": "32",
        "HEADRACE_HNSW_M": "32",
        "HEADRACE_HNSW_EF_CONSTRUCTION": "200",
    }
    assert "+128 bytes a chunk" in advice.text[1]


def test_another_graph_is_recommended_where_the_present_one_cannot_reach_the_target() -> None:
    slower = graph(32, point(96, 0.995, 0.9))
    assert advise([PRESENT, slower], 96, 0.99).environment == {"HEADRACE_HNSW_M": "32"}


def test_too_few_queries_are_told_with_the_setting_that_is_sure() -> None:
    few = graph(16, point(32, 0.955, 0.1, 30), point(64, 0.97, 0.2, 30), point(96, 0.999, 0.3, 3000))
    advice = advise([few], 32, 0.95)
    assert advice.verdict == "keep"
    assert "30 queries are too few" in advice.text[-1]
    assert "ef_search 96" in advice.text[-1]


# --- what is drawn


def test_the_plot_is_an_svg_with_a_line_for_each_graph_and_a_label_for_each_ef() -> None:
    other = graph(32, point(32, 0.93, 0.15), point(64, 0.975, 0.35))
    drawn = plot("a <shard> & more", "below", [PRESENT, other], 96, 0.95)
    root = ET.fromstring(drawn)
    name = "{http://www.w3.org/2000/svg}"
    assert len(list(root.iter(f"{name}polyline"))) == 2
    texts = [item.text or "" for item in root.iter(f"{name}text")]
    assert {"a <shard> & more", "target 0.95", "32", "64", "96"} <= set(texts)
    assert texts.count("32") == texts.count("64") == 2
    assert "prefers-color-scheme:dark" in drawn


@pytest.mark.parametrize("recall", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("target", [0.1, 0.95, 1.0])
def test_the_plot_keeps_everything_inside_whatever_was_measured(recall: float, target: float) -> None:
    single = GraphResult(16, 100, None, 1800.0, 0.0, [Point(28, np.full(5, recall), 0.25, 0.5)])
    root = ET.fromstring(plot("one", "point", [single], 28, target))
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 76 <= float(circle.attrib["cx"]) <= 856
        assert 70 <= float(circle.attrib["cy"]) <= 460
