"""`make bench-shard`: one shard beside bare hnswlib in one run: inserts, searches, filters, churn, restart, size."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import hnswlib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from app.local.console import Console
from app.settings import load_settings
from app.shard.memory import limit_arenas
from bench.meters import quantiles
from bench.report import Report, Table, Target
from bench.shard_load import ShardLoad
from bench.vectors import BenchVectors, bench_vectors, mixed
from consumers.index.command import SWITCH_INTERVAL_S
from schemas.errors import HeadraceError
from schemas.filters import parse_filter

K = 10
_ROUNDS = 3  # of the quiet searches, taken in turns
_BESIDE_S = 20.0
_CHURNS = 3
_LEAST_TAIL = 20_000
_MODEL_RATE = 100.0
_MOST_BUILT_ANEW = 200_000  # of a restart without a snapshot: minutes
_BLOCK = 8192
_FILTERS = (("half", 50.0), ("tenth", 10.0), ("hundredth", 1.0), ("thousandth", 0.1))


@click.command()
@click.option("--chunks", default=100_000, show_default=True, type=click.IntRange(1000, 1_000_000))
@click.option(
    "--embedded", type=click.IntRange(1000), help="So many of them are embedded text, the rest mixtures of two; all."
)
@click.option("--queries", default=1000, show_default=True, type=click.IntRange(50, 2000))
@click.option("--churn/--no-churn", default=True, help="Three rounds that replace a third each, then everything anew.")
@click.option("--name", default="shard", show_default=True, help="Of the files in bench/results.")
def shard(chunks: int, embedded: int | None, queries: int, churn: bool, name: str) -> None:
    """Measure one shard in this process, with real text that was embedded once (see bench.vectors)."""
    _like_the_worker()
    console = Console()
    report = Report(name, f"One shard of {chunks:,} chunks, beside bare hnswlib", "make bench-shard", sys.argv[1:])
    folder = Path(tempfile.mkdtemp(prefix="bench-shard-"))
    try:
        data = mixed(bench_vectors(min(chunks, embedded or chunks), console), chunks)
        if embedded is not None and embedded < chunks:
            report.notes.append(f"{embedded:,} chunks are embedded text, the others mixtures of two of them.")
        report.noise = type(report.noise)()  # embedding is over
        run = ShardRun(data, data.queries[:queries], console, report, folder)
        run.measure(churn=churn)
        console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class ShardRun:
    """One run; results go into the report."""

    data: BenchVectors
    queries: NDArray[np.float32]
    console: Console
    report: Report
    folder: Path
    rows: list[list[object]] = field(default_factory=list)

    def measure(self, *, churn: bool) -> None:
        """Everything, in the order of the report."""
        truth = exact(self.data.vectors, self.queries)
        bare, bare_rate = self._bare()
        load = ShardLoad(self.folder / "grown", self.data.texts, self.data.vectors)
        try:
            rate = self._fill(load, bare_rate)
            load.settle()
            self._sizes(load)
            self._filters(load)
            self._searches(load, bare, truth, rate)
        finally:
            load.close()
        del bare
        self._restart()
        if churn:
            self._churn()

    def _bare(self) -> tuple[Any, float]:
        settings = load_settings()
        vectors = self.data.vectors.astype(np.float32)
        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(len(vectors), M=settings.hnsw_m, ef_construction=settings.hnsw_ef_construction)
        began = time.perf_counter()
        for at in range(0, self._bulk, _BLOCK):
            rows = np.arange(at, min(at + _BLOCK, self._bulk))
            graph.add_items(vectors[rows], rows, num_threads=2)
        self.console.step(f"bare hnswlib: {self._bulk / (time.perf_counter() - began):,.0f} inserts/s with two threads")
        began = time.perf_counter()
        rows = np.arange(self._bulk, len(vectors))
        graph.add_items(vectors[rows], rows, num_threads=1)
        rate = len(rows) / (time.perf_counter() - began)
        graph.set_ef(settings.hnsw_ef_search)
        self.console.step(f"  {rate:,.0f} inserts/s with one thread, the last {len(rows):,}")
        return graph, rate

    @property
    def _bulk(self) -> int:
        """So many are put in first; rates are those of the rest, when the graph is large."""
        count = len(self.data.vectors)
        return count - min(count // 2, max(_LEAST_TAIL, count // 20))

    def _fill(self, load: ShardLoad, bare_rate: float) -> float:
        self.console.step("filling the shard")
        bulk = range(self._bulk)
        self.console.step(f"  {load.fill(bulk):,.0f} chunks/s for the first {len(bulk):,}")
        rate = load.fill(range(self._bulk, len(self.data.vectors)))
        self.console.step(f"  {rate:,.0f} chunks/s, {rate / bare_rate:.0%} of bare hnswlib")
        self.report.figures |= {"inserts_per_second": rate, "bare_inserts_per_second": bare_rate}
        self.report.targets.append(
            Target(
                "sustained inserts, rows and words included, against bare hnswlib with one thread",
                "at least 80 %",
                f"{rate / bare_rate:.0%}",
                rate / bare_rate >= 0.8,
            )
        )
        return rate

    def _searches(self, load: ShardLoad, bare: Any, truth: list[set[int]], rate: float) -> None:
        index = load.shard._index
        assert index is not None
        ways: dict[str, Callable[[NDArray[np.float32]], set[int]]] = {
            "bare hnswlib": lambda query: set(bare.knn_query(query, k=K, num_threads=1)[0][0].tolist()),
            "index": lambda query: {item.doc - 1 for item in index.search(query, K)},
            "shard, with rows and texts": lambda query: {
                int(hit.document.id) for hit in load.shard.search(query, K, None, None)
            },
        }
        took, found = _in_turns(ways, self.queries)
        quiet = {name: quantiles(values) for name, values in took.items()}
        for name in ways:
            self._row(name, "nothing", quiet[name], _recall(found[name], truth))
        spaced = self._beside(load, ways["index"], "index", 0.0)
        beside = self._beside(load, ways["index"], "index")
        whole = self._beside(load, ways["shard, with rows and texts"], "shard, with rows and texts")
        gentle = self._beside(load, ways["index"], "index", _MODEL_RATE)
        cost = quiet["index"]["p50"] / quiet["bare hnswlib"]["p50"]
        tail = beside["p99"] / spaced["p99"]
        self.report.figures |= {
            "quiet_ms": quiet,
            "beside_ms": {"nothing": spaced, "index": beside, "shard": whole, "index, gentle": gentle},
        }
        self.report.targets += [
            Target(
                "quiet search of the index against bare hnswlib, p50", "within 15 %", f"{cost - 1:+.0%}", cost <= 1.15
            ),
            Target(
                "p99 of the index under full ingest against none, queries 2 ms apart",
                "at most 3 times",
                f"{tail:.1f} times",
                tail <= 3,
            ),
            Target(
                f"the same beside {_MODEL_RATE:.0f} updates/s, as many as the model embeds on such a machine",
                "at most 3 times",
                f"{gentle['p99'] / spaced['p99']:.1f} times",
                gentle["p99"] <= 3 * spaced["p99"],
            ),
        ]
        columns = ("search", "beside", "p50 ms", "p95 ms", "p99 ms", "max ms", "recall@10", "updates/s")
        self.report.tables.append(Table("Searches, k = 10, one after another in one thread", columns, self.rows))
        self.report.notes.append(
            f"Filled with {rate:,.0f} chunks/s. Beside: documents updated in transactions of 32 as fast as the shard "
            f"takes them, for {_BESIDE_S:.0f} s; a query every 2 ms at most. The benchmark, the writer, the absorber "
            "and maintenance share one process, as in the index worker."
        )

    def _beside(
        self,
        load: ShardLoad,
        search: Callable[[NDArray[np.float32]], object],
        name: str,
        per_second: float | None = None,
    ) -> dict[str, float]:
        took = []
        quiet = per_second == 0
        with nullcontext([0]) if quiet else load.updates(len(self.data.vectors), per_second) as done:
            time.sleep(2)
            before, began = done[0], time.perf_counter()
            while time.perf_counter() - began < _BESIDE_S:
                for query in self.queries:
                    at = time.perf_counter()
                    search(query)
                    took.append((time.perf_counter() - at) * 1000)
                    time.sleep(0.002)
                    if time.perf_counter() - began > _BESIDE_S:
                        break
            rate = (done[0] - before) / (time.perf_counter() - began)
        spread = quantiles(took)
        self._row(name, "nothing, 2 ms between two" if quiet else "updates", spread, None, rate)
        return spread

    def _row(
        self, name: str, beside: str, spread: dict[str, float], recall: float | None, rate: float | None = None
    ) -> None:
        keys = ("p50", "p95", "p99", "max")
        shown = f"{recall:.4f}" if recall is not None else ""
        self.rows.append([name, beside, *(spread[key] for key in keys), shown, rate if rate is not None else ""])
        self.console.step(f"  {name}, beside {beside}: p50 {spread['p50']:.2f}, p99 {spread['p99']:.2f} ms {shown}")

    def _filters(self, load: ShardLoad) -> None:
        index = load.shard._index
        assert index is not None
        rows: list[list[object]] = []
        queries = self.queries[: max(50, len(self.queries) // 4)]
        for name, percent in _FILTERS:
            parsed = parse_filter({name: 0})
            generation = index.generation
            allowed = np.flatnonzero(generation.alive & generation.rows.columns.mask(parsed, generation.end))
            truth = [{item.doc for item in generation.exact(query, K, allowed)} for query in queries]
            took, found = _in_turns(
                {name: lambda q, f=parsed: {i.doc for i in index.search(q, K, f)}}, queries, rounds=1
            )
            spread = quantiles(took[name])
            short = sum(len(got) < min(K, len(allowed)) for got in found[name])
            recall = _recall(found[name], truth)
            rows.append([f"{percent:g} %", len(allowed), spread["p50"], spread["p99"], f"{recall:.4f}", short])
            self.console.step(f"  filter {percent:g} %: p50 {spread['p50']:.2f} ms, recall {recall:.4f}")
        columns = ("let through", "chunks", "p50 ms", "p99 ms", "recall@10", "answers with fewer than 10")
        self.report.tables.append(Table("Searches with a filter", columns, rows))
        self.report.figures["filters"] = rows

    def _sizes(self, load: ShardLoad) -> None:
        status = load.shard.status()
        parts = {name: size / status.chunks for name, size in status.memory_bytes.items()}
        graph = load.folder_bytes(".graph")
        rows = [[name, value] for name, value in parts.items()]
        rows += [["shard file", load.folder_bytes(".sqlite") / status.chunks], ["snapshot", graph / status.chunks]]
        self.report.tables.append(
            Table("Bytes per chunk: memory by part (estimates), then disk", ("what", "bytes"), rows)
        )
        self.report.figures["bytes_per_chunk"] = dict(rows)

    def _restart(self) -> None:
        rows: list[list[object]] = []
        small = len(self.data.vectors) <= _MOST_BUILT_ANEW
        for what in ("with the snapshot", "without")[: 1 + small]:
            if what == "without":
                for file in (self.folder / "grown").rglob("*.graph"):
                    file.unlink()
            began = time.perf_counter()
            load = ShardLoad(self.folder / "grown", self.data.texts, self.data.vectors)
            load.wait(lambda status: status.state != "loading")
            loaded_s = time.perf_counter() - began
            load.wait(lambda status: status.buffered == 0)
            rows.append([what, loaded_s, time.perf_counter() - began])
            self.console.step(f"  restart {what}: {loaded_s:.1f} s to the first answer")
            load.close()
        columns = ("start", "seconds to the first answer", "seconds to a whole graph")
        self.report.tables.append(Table("Restart", columns, rows))
        self.report.figures["restart"] = rows

    def _churn(self) -> None:
        self.console.step("churn: a fresh shard and a churned one, each in a process of its own")
        context = multiprocessing.get_context("spawn")
        stages: list[dict[str, Any]] = []
        for kind in ("fresh", "churned"):
            ours, theirs = context.Pipe()
            process = context.Process(target=_churned, args=(kind, len(self.data.vectors), len(self.queries), theirs))
            process.start()
            theirs.close()
            try:
                while True:
                    stages.append(ours.recv())
                    last = stages[-1]
                    took = f"p50 {last['p50']:.3f} ms, {last['rss_mib']:.0f} MiB"
                    self.console.step(f"  {last['stage']}: recall {last['recall']:.4f}, {took}")
            except EOFError:
                process.join()
        self._judge(stages)

    def _judge(self, stages: list[dict[str, Any]]) -> None:
        fresh, churned = stages[0], stages[1:]
        settled = [stage for stage in churned if "rebuilt" in stage["stage"]]
        if not settled:
            raise HeadraceError("the churned shard did not come to its end; the lines above may say why")
        recall = min(stage["recall"] - stage["fresh_recall"] for stage in settled)
        slower = max(stage["p50"] / stage["fresh_p50"] for stage in settled) * fresh["fresh_p50"] / fresh["p50"]
        larger = max(stage["rss_mib"] for stage in settled) / fresh["rss_mib"]
        keys = ("stage", "recall", "fresh_recall", "p50", "fresh_p50", "p99", "rss_mib", "dead_ratio", "seconds")
        columns = (
            *("after", "recall@10", "bare graph of the same, built anew", "p50 ms", "bare p50 ms", "p99 ms"),
            *("RSS MiB", "dead points", "seconds it took"),
        )
        rows = [[f"{stage[key]:.4f}" if "recall" in key else stage[key] for key in keys] for stage in stages]
        self.report.tables.append(Table("Churn: everything replaced while it serves", columns, rows))
        self.report.targets += [
            Target("recall@10 after churn against a fresh build", "within 0.005", f"{recall:+.4f}", recall >= -0.005),
            Target(
                "query time after churn against fresh, both against bare",
                "within 10 %",
                f"{slower - 1:+.0%}",
                slower <= 1.1,
            ),
            Target("memory after churn against fresh, RSS", "within 20 %", f"{larger - 1:+.0%}", larger <= 1.2),
        ]
        self.report.figures["churn"] = stages


def _churned(kind: str, chunks: int, query_count: int, told: Any) -> None:
    """Runs in a process of its own: memory is measured from outside of what came before."""
    _like_the_worker()
    data = bench_vectors(chunks, Console())
    queries = data.queries[:query_count]
    folder = Path(tempfile.mkdtemp(prefix="bench-churn-"))
    load = ShardLoad(folder, data.texts, data.vectors, rebuild_cpu_share="1.0")
    try:
        order = np.random.default_rng(7).permutation(chunks)
        vector_of = np.arange(chunks)

        def tell(stage: str, seconds: float) -> None:
            told.send(_stage(load, stage, seconds, queries))

        load.fill(range(chunks))
        tell("built, not churned", load.settle())
        if kind == "fresh":
            return
        for number in range(_CHURNS):
            third = order[number * chunks // _CHURNS : (number + 1) * chunks // _CHURNS]
            began = time.perf_counter()
            vector_of[third] = np.roll(vector_of[third], 1)  # each gets what another one had: nothing is as it was
            load.fill(third.tolist(), vector_of[third].tolist())
            tell(f"round {number + 1}: a third replaced", time.perf_counter() - began)
            tell(f"round {number + 1}, rebuilt", load.settle())
        began = time.perf_counter()
        load.delete_all(range(chunks))
        load.fill(range(chunks), vector_of.tolist())
        tell("all deleted and added again", time.perf_counter() - began)
        tell("all deleted and added again, rebuilt", load.settle())
    finally:
        load.close()
        told.close()
        shutil.rmtree(folder, ignore_errors=True)


def _stage(load: ShardLoad, stage: str, seconds: float, queries: NDArray[np.float32]) -> dict[str, Any]:
    index = load.shard._index
    assert index is not None
    generation = index.generation
    rss_mib = _rss_mib()
    alive = np.flatnonzero(generation.alive)
    docs = generation.rows.doc[alive]  # each document is one chunk
    truth = [set(docs[list(best)].tolist()) for best in exact(generation.rows.vectors[alive], queries)]
    ways: dict[str, Any] = {"index": lambda query: {item.doc for item in index.search(query, K)}}
    if "rebuilt" in stage or "not churned" in stage:
        graph = _built_anew(generation)
        ways["fresh"] = lambda query: set(graph.knn_query(query, k=K, num_threads=1)[0][0].tolist())
    took, found = _in_turns(ways, queries)
    spread = quantiles(took["index"])
    return {
        "stage": stage,
        "seconds": seconds,
        "recall": _recall(found["index"], truth),
        "fresh_recall": _recall(found["fresh"], truth) if "fresh" in found else float("nan"),
        "p50": spread["p50"],
        "fresh_p50": quantiles(took["fresh"])["p50"] if "fresh" in took else float("nan"),
        "p99": spread["p99"],
        "rss_mib": rss_mib,
        "dead_ratio": load.shard.status().graph_dead_ratio,
    }


def _built_anew(generation: Any) -> Any:
    """A bare graph of nothing but what is alive, with the same parameters."""
    settings = load_settings()
    alive = np.flatnonzero(generation.alive)
    vectors = generation.rows.vectors[alive].astype(np.float32)
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.init_index(len(alive), M=settings.hnsw_m, ef_construction=settings.hnsw_ef_construction)
    graph.add_items(vectors, generation.rows.doc[alive], num_threads=2)
    graph.set_ef(settings.hnsw_ef_search)
    return graph


def _like_the_worker() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    limit_arenas()
    threadpool_limits(1, user_api="blas")


def exact(vectors: NDArray[np.float16], queries: NDArray[np.float32]) -> list[set[int]]:
    """The rows of the K greatest inner products of each query."""
    best = np.full((len(queries), K), -np.inf, np.float32)
    rows = np.zeros((len(queries), K), np.int64)
    for at in range(0, len(vectors), _BLOCK):
        scores = np.hstack((best, queries @ vectors[at : at + _BLOCK].astype(np.float32).T))
        numbers = np.hstack(
            (rows, np.broadcast_to(np.arange(at, at + scores.shape[1] - K), (len(queries), scores.shape[1] - K)))
        )
        top = np.argpartition(scores, scores.shape[1] - K, axis=1)[:, -K:]
        best, rows = np.take_along_axis(scores, top, 1), np.take_along_axis(numbers, top, 1)
    return [set(row.tolist()) for row in rows]


def _in_turns(
    ways: dict[str, Callable[[NDArray[np.float32]], set[int]]], queries: NDArray[np.float32], rounds: int = _ROUNDS
) -> tuple[dict[str, list[float]], dict[str, list[set[int]]]]:
    """Milliseconds of each query, and what it found; the ways take turns, so that noise hits all alike."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[set[int]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, search in ways.items():
            answers = []
            for query in queries:
                began = time.perf_counter()
                answer = search(query)
                took[name].append((time.perf_counter() - began) * 1000)
                answers.append(answer)
            found[name] = answers
    return took, found


def _recall(found: Sequence[set[int]], truth: Sequence[set[int]]) -> float:
    return float(np.mean([len(got & right) / len(right) for got, right in zip(found, truth, strict=True)]))


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    shard()
