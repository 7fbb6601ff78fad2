"""`headrace tune` as people and scripts see it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web

from app.cli import tune as module
from app.cli import tune_queries
from app.cli.main import main
from app.model.hashing import HashingEmbedder
from app.observe.http import HttpThread, listen
from app.observe.metrics import IndexMetrics
from app.settings import PREFIX
from app.shard.serve import ShardServer
from app.shard.shards import Shards
from tests.unit.shard.parts import DIM, document, random_units, shard_settings

COUNT = 120
FINGERPRINT = HashingEmbedder(DIM).fingerprint


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_REDIS_URL", "")
    monkeypatch.setenv("HEADRACE_DATA_DIR", "data")
    monkeypatch.setenv("HEADRACE_INDEX_PORT", "1")  # nobody listens there
    monkeypatch.setenv("HEADRACE_WRITE_BUFFER_ROWS", "1")  # else such small shards need no graph


@contextmanager
def worker(folder: Path, count: int = COUNT) -> Iterator[tuple[Shards, str]]:
    """An index worker's shard 0 and its HTTP side."""
    shards = Shards(shard_settings(folder / "data"), "epoch")
    shards.acquire({0})
    vectors = random_units(count, seed=1)
    shards.open[0].apply([document(n, f"d{n}", vectors[n], fingerprint=FINGERPRINT) for n in range(count)])
    server = ShardServer(
        shards, deque(), lambda: {"url": "u", "replica": "0", "partitions": 1}, lambda: None, IndexMetrics()
    )
    application = web.Application()
    application.add_routes(server.routes())
    http = HttpThread(application, listen("127.0.0.1", 0, "a test"))
    http.start()
    try:
        yield shards, f"http://127.0.0.1:{http.port}"
    finally:
        http.close()
        server.close()
        shards.close()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["tune", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run("--json", *arguments) == 0
    answer: dict[str, Any] = orjson.loads(capsys.readouterr().out)
    return answer


def test_the_queries_of_the_live_worker_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with worker(tmp_path) as (shards, url):
        for query in random_units(25, seed=2):
            shards.open[0].search(query, 10, None, None)
        answer = as_json(capsys, "--index-urls", url, "--ef", "64,200")
    assert answer["queries"] == {"source": "worker", "count": 25}
    assert (answer["collection"], answer["shard"], answer["chunks"], answer["dim"]) == ("documents", 0, COUNT, DIM)
    (graph,) = answer["graphs"]
    found = {item["ef_search"]: item for item in graph["points"]}
    assert set(found) == {64, 200, 512}  # 512: what the worker says that it searches with
    assert [ef for ef, item in found.items() if item["present"]] == [512]
    assert found[512]["recall_at_10"] == 1.0
    assert found[512]["recall_low"] < 1.0
    assert answer["recommendation"]["environment"] == {"HEADRACE_HNSW_EF_SEARCH": "64"}
    assert (tmp_path / answer["plot"]).read_text().startswith("<svg ")
    assert answer["plot"] == "tune-documents-0.svg"


def test_a_worker_that_was_asked_little_is_measured_with_chunks_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(tmp_path) as (shards, url):
        for query in random_units(3, seed=2):
            shards.open[0].search(query, 10, None, None)
        assert run("--index-urls", url) == 0
    told = capsys.readouterr()
    assert "was asked 3 different queries lately" in told.err
    assert "not real queries" in told.out
    assert "--queries" in told.out


def test_without_a_worker_the_file_alone_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with worker(tmp_path):
        pass
    assert run("--plot", "other.svg") == 0
    told = capsys.readouterr()
    assert "no index worker answers" in told.err
    assert "http://127.0.0.1:1" in told.err
    assert "recall@10" in told.out
    assert "Plot: other.svg" in told.out
    assert (tmp_path / "other.svg").exists()


def test_the_queries_of_a_file_win_over_those_of_the_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_queries, "load_embedder", lambda *_, **__: HashingEmbedder(DIM))
    (tmp_path / "q.txt").write_text("\ufeffwater mill\n\n  head race \nwater mill\n", encoding="utf-8")
    with worker(tmp_path) as (shards, url):
        for query in random_units(25, seed=2):
            shards.open[0].search(query, 10, None, None)
        answer = as_json(capsys, "--index-urls", url, "--queries", "q.txt")
    assert answer["queries"] == {"source": "file", "count": 2}


def test_queries_of_another_model_are_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_text("water mill\n")
    with worker(tmp_path):
        pass
    assert run("--queries", "q.txt", "--runtime", "hashing") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("headrace: ")
    assert "384" in line
    assert f"({DIM} dimensions)" in line
    assert "HEADRACE_MODEL" in line


def test_a_worker_whose_queries_have_another_dimension_is_named() -> None:
    shard = type("Shard", (), {"dim": DIM})()
    stranger = tune_queries.LiveWorker("http://w:1", 96, np.ones((30, 4), np.float32))
    with pytest.raises(tune_queries.FingerprintMismatch, match="http://w:1 have 4 dimensions"):
        tune_queries.asked_lately([stranger], shard)


def test_graphs_are_built_on_request_and_shown_with_what_they_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(tmp_path):
        pass
    answer = as_json(capsys, "--m", "4,64", "--ef-construction", "20,512", "--ef", "64")
    built = [(item["m"], item["ef_construction"]) for item in answer["graphs"]]
    assert built == [(16, 100), (4, 20), (4, 512), (64, 20), (64, 512)]  # no snapshot: the settings' graph first
    assert all(item["build_s"] is not None and item["bytes_per_chunk"] > 4 * DIM for item in answer["graphs"])


def test_values_that_act_alike_are_measured_once_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(tmp_path):
        pass
    answer = as_json(capsys, "--ef", "8,16,24,64")
    assert [item["ef_search"] for item in answer["graphs"][0]["points"]] == [30, 64, 96]
    assert any("under 30 acts as 30" in note for note in answer["notes"])


def test_a_shard_that_is_scanned_anyway_is_given_no_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_WRITE_BUFFER_ROWS", str(COUNT))
    with worker(tmp_path):
        pass
    advice = as_json(capsys)["recommendation"]
    assert (advice["verdict"], advice["choice"], advice["environment"]) == ("keep", None, {})
    assert "HEADRACE_WRITE_BUFFER_ROWS" in advice["text"][0]


def test_a_target_out_of_reach_says_what_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with worker(tmp_path, 400):
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_HNSW_M", "4")
        patch.setenv("HEADRACE_HNSW_EF_CONSTRUCTION", "8")
        patch.setenv("HEADRACE_HNSW_EF_SEARCH", "30")
        assert run("--ef", "30", "--target", "1.0") == 0
    out = capsys.readouterr().out
    assert "Nothing measured reaches recall@10 1." in out
    assert "headrace tune --ef 60,120 --m 8 --ef-construction 16" in out


def test_ctrl_c_ends_it_with_nothing_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with worker(tmp_path):
        pass
    monkeypatch.setattr(module, "build_graph", interrupted)
    assert run() == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.glob("*.svg")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ef", "many"],
        ["--ef", "7"],
        ["--ef", ""],
        ["--m", "3"],
        ["--ef-construction", "5000"],
        ["--target", "0"],
        ["--target", "1.5"],
        ["--shard", "-1"],
        ["--queries", "absent.txt"],
    ],
    ids=" ".join,
)
def test_wrong_numbers_are_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "Error: Invalid value for '--" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"), [(b"\n \n", "has no queries"), (b"\xff\xfe\x00", "is not UTF-8")], ids=["empty", "binary"]
)
def test_a_file_without_queries_is_wrong_usage(
    content: bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_bytes(content)
    with worker(tmp_path):
        pass
    assert run("--queries", "q.txt") == 2
    assert told in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(tmp_path):
        pass
    assert run("--plot", "absent/plot.svg") == 2
    assert "the folder absent does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data-dir", "absent"], "no shard file in absent/documents/replica-0"),
        (["--collection", "other"], "HEADRACE_COLLECTION"),
        (["--shard", "7"], "shard 7 is not here, only 0"),
    ],
    ids=["folder", "collection", "shard"],
)
def test_what_is_not_there_is_one_line_and_status_1(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(tmp_path):
        pass
    assert run(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headrace: ")
    assert told in line


def test_a_damaged_file_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with worker(tmp_path):
        pass
    (path,) = tmp_path.rglob("shard-0.sqlite")
    path.write_bytes(b"damaged" * 1000)
    assert run() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Restart its index worker" in line
