"""`headrace tune`: what ef_search (and M, ef_construction) give and cost on a shard's own data and queries."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.options import setting_flags
from app.cli.tune_queries import LEAST_LIVE, asked_lately, from_file, live_workers
from app.cli.tune_report import report_json, show_report
from app.local.console import Console
from app.settings import Settings, load_settings
from app.shard.tune import DEFAULT_EF, HYBRID_LEAST_EF, GraphResult, Queries, exact_truth, held_out, measure
from app.shard.tune_advice import Advice, advise
from app.shard.tune_data import (
    Tell,
    TunedGraph,
    TunedShard,
    build_graph,
    choose_shard,
    read_shard,
    require_memory,
    shard_files,
    wanted_graphs,
)
from app.shard.tune_plot import plot

_TOLD_EVERY_S = 0.2
_NOT_REAL = (
    "These are not real queries: chunks of the shard itself stand in for them, and the graph was built around them. "
    "Real queries usually find less. Measure with real ones: search for a while, or give a file with --queries."
)


class _Numbers(click.ParamType):
    """Whole numbers parted by commas, each as a setting accepts it."""

    name = "numbers"

    def __init__(self, setting: str) -> None:
        limits = [getattr(item, name) for item in Settings.model_fields[setting].metadata for name in ("ge", "le")
                  if hasattr(item, name)]  # fmt: skip
        self._least, self._most = min(limits), max(limits)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            numbers = sorted({int(item) for item in value.split(",")})
        except ValueError:
            numbers = []
        if not numbers or not all(self._least <= number <= self._most for number in numbers):
            self.fail(f"'{value}' must be whole numbers from {self._least} to {self._most}, as in 16,32", param, ctx)
        return numbers


@click.command()
@setting_flags("collection", "replica", "data_dir", "index_urls", "redis_url", "model", "runtime", "precision")
@click.option("--shard", "partition", type=click.IntRange(min=0), help="Which; default: the largest on this machine.")
@click.option(
    *("--ef", "efs"),
    type=_Numbers("hnsw_ef_search"),
    default=",".join(map(str, DEFAULT_EF)),
    show_default=True,
    metavar="N,N…",
    help="Values of ef_search.",
)
@click.option("--m", "ms", type=_Numbers("hnsw_m"), metavar="N,N…", help="Also build graphs with these M.")
@click.option(
    *("--ef-construction", "ef_constructions"),
    type=_Numbers("hnsw_ef_construction"),
    metavar="N,N…",
    help="Also build graphs with these ef_construction.",
)
@click.option(
    "--queries",
    "query_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Queries to measure with, one on each line, in place of those asked lately.",
)
@click.option(
    "--target",
    type=click.FloatRange(0, 1, min_open=True),
    help="recall@10 to reach  (default: HEADRACE_RECALL_TARGET)",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Where to write the plot (SVG).  [default: tune-<collection>-<shard>.svg]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def tune(
    partition: int | None,
    efs: list[int],
    ms: list[int] | None,
    ef_constructions: list[int] | None,
    query_file: Path | None,
    target: float | None,
    plot_file: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure recall@10 against latency on the data and queries of a live shard, and recommend a setting.

    Runs beside the index worker, on its machine, and changes nothing. Its own graph is measured; --m and
    --ef-construction build others from its chunks, in one thread and beside it in memory.
    """
    settings = load_settings(**flags)
    target = target or settings.recall_target
    files = shard_files(settings)
    partition = choose_shard(files, partition)
    plot_file = plot_file or Path(f"tune-{settings.collection}-{partition}.svg")
    if not plot_file.parent.is_dir():
        raise click.BadParameter(f"--plot: the folder {plot_file.parent} does not exist")
    console = Console(sys.stderr, sys.stderr)
    try:
        shard = read_shard(files[partition], settings, _status(console, "adding what is newer than the snapshot"))
        _introduce(console, settings, partition, shard)
        queries, notes, serving_ef = _queries(console, settings, partition, shard, query_file)
        present_ef = max(serving_ef or settings.hnsw_ef_search, queries.least_ef)
        if min(*efs, serving_ef or settings.hnsw_ef_search) < queries.least_ef:
            notes.append(
                f"ef_search under {queries.least_ef} acts as {queries.least_ef}: to find {queries.depth} documents "
                "a query asks the graph for so many chunks."
            )
        efs = sorted({present_ef, *(max(ef, queries.least_ef) for ef in efs)})
        graphs = _graphs(console, settings, shard, ms or [], ef_constructions or [])
        truth = exact_truth(graphs[0].index, queries, _status(console, "answering the queries exactly"))
        results = measure(graphs, efs, queries, truth, _status(console, "measuring"))
        console.step(f"measured {len(graphs)} graph{'s'[: len(graphs) > 1]} with {len(efs)} values of ef_search each")
    finally:
        console.status("")
    advice = advise(results, present_ef, target) if shard.chunks > settings.write_buffer_rows else _too_small(settings)
    notes += _cautions(settings, results[0], advice)
    title = f"{settings.collection}, shard {partition}: recall against latency"
    subtitle = f"{shard.chunks:,} chunks · {len(queries)} {_SOURCES[queries.source]} · ring: the present setting"
    _write(plot_file, plot(title, subtitle, results, present_ef, target))
    told = {"collection": settings.collection, "shard": partition, "chunks": shard.chunks, "dim": shard.dim}
    told |= {"queries": {"source": queries.source, "count": len(queries)}, "target": target, "notes": notes}
    if as_json:
        click.echo(
            orjson.dumps(
                told | report_json(results, present_ef, advice) | {"plot": str(plot_file)}, option=orjson.OPT_INDENT_2
            )
        )
    else:
        show_report(results, present_ef, advice, notes)
        click.echo(f"Plot: {plot_file}")


_SOURCES = {"worker": "queries asked lately", "file": "queries of a file", "chunks": "chunks in place of queries"}


def _introduce(console: Console, settings: Settings, partition: int, shard: TunedShard) -> None:
    console.step(
        f"shard {partition} of {settings.collection}: {shard.chunks:,} chunks of {shard.progress.documents:,} "
        f"documents, {shard.dim} dimensions, {shard.rows.vectors.dtype}"
    )
    if shard.live is None:
        console.step(f"no graph of the worker to measure ({shard.trouble}): one is built as it would")


def _queries(
    console: Console, settings: Settings, partition: int, shard: TunedShard, query_file: Path | None
) -> tuple[Queries, list[str], int | None]:
    """Queries, what to say of them, and the ef_search that serves at present if a worker tells."""
    workers, urls = live_workers(settings, partition, shard.progress.fingerprint)
    serving_ef = next((worker.ef_search for worker in workers if worker.ef_search is not None), None)
    if query_file is not None:
        queries, found = from_file(query_file, settings, shard)
        console.step(f"{len(queries)} of {found} queries of {query_file}")
        return queries, [], serving_ef
    queries = asked_lately(workers, shard)
    if len(queries) >= LEAST_LIVE:
        console.step(f"{len(queries)} queries that {' and '.join(worker.url for worker in workers)} was asked lately")
        return queries, [], serving_ef
    why = (
        f"{workers[0].url} was asked {len(queries)} different queries lately, fewer than {LEAST_LIVE}"
        if workers
        else f"no index worker answers for this shard (asked: {', '.join(urls)})"
    )
    queries = held_out(shard)
    console.step(f"{why}: measuring with {len(queries)} chunks instead")
    return queries, [_NOT_REAL], serving_ef


def _graphs(
    console: Console, settings: Settings, shard: TunedShard, ms: list[int], ef_constructions: list[int]
) -> list[TunedGraph]:
    """The present graph first."""
    live = shard.live
    present = (live.m, live.ef_construction) if live else (settings.hnsw_m, settings.hnsw_ef_construction)
    wanted = wanted_graphs(present, ms, ef_constructions)
    graphs = [live] if live else []
    require_memory(shard, len(wanted) - len(graphs), settings)
    for m, ef_construction in wanted[len(graphs) :]:
        name = f"M {m}, ef_construction {ef_construction}"
        graphs.append(build_graph(shard, m, ef_construction, _status(console, f"building {name}")))
        console.step(f"built {name} in {graphs[-1].build_s:.1f} s")
    return graphs


def _too_small(settings: Settings) -> Advice:
    rows = settings.write_buffer_rows
    text = f"The worker scans shards of up to {rows:,} chunks (HEADRACE_WRITE_BUFFER_ROWS): none of this matters yet."
    return Advice("keep", None, {}, [text])


def _cautions(settings: Settings, present: GraphResult, advice: Advice) -> list[str]:
    notes = []
    if advice.choice is not None and advice.choice.point.ef < HYBRID_LEAST_EF:
        notes.append(
            f"Hybrid searches ask the graph for {HYBRID_LEAST_EF} chunks: to them ef_search under {HYBRID_LEAST_EF} is "
            f"{HYBRID_LEAST_EF}, in time as in recall."
        )
    if (present.m, present.ef_construction) != (settings.hnsw_m, settings.hnsw_ef_construction):
        notes.append(
            f"The graph that serves has M {present.m}, ef_construction {present.ef_construction}; the settings "
            f"here say {settings.hnsw_m}, {settings.hnsw_ef_construction}."
        )
    return notes


def _status(console: Console, what: str) -> Tell:
    """Shows how far something is, and how long it will take at the speed it has had."""
    began = time.monotonic()
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told, began
        now = time.monotonic()
        if not done:
            began = now
        if now - told < _TOLD_EVERY_S:
            return
        told = now
        left = f", {(now - began) / done * (total - done):.0f} s left" if done else ""
        console.status(f"{what}: {done:,} of {total:,}{left}")

    return tell


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"--plot: {path} cannot be written ({error.strerror})") from error
