"""What `headrace tune` has measured and recommends, for people and for machines."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from app.shard.tune import GraphResult, Point
from app.shard.tune_advice import Advice


def show_report(results: list[GraphResult], present_ef: int, advice: Advice, notes: list[str]) -> None:
    console = Console()
    for graph in results:
        click.echo(f"\n{_heading(graph)}")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("ef_search", "recall@10", "p50 ms", "p99 ms", ""):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for point in graph.points:
            mark = _mark(graph is results[0] and point.ef == present_ef, advice, point)
            table.add_row(*_cells(point), mark, style="bold" if mark else None)
        console.print(table)
    click.echo()
    for line in (*advice.text, *notes):
        click.echo(line)
    if advice.environment:
        click.echo()
        for name, value in advice.environment.items():
            click.echo(f"    {name}={value}")
        click.echo()


def _heading(graph: GraphResult) -> str:
    built = "the worker's own" if graph.build_s is None else f"built in {graph.build_s:.1f} s"
    dead = f", {graph.dead_ratio:.0%} dead points" if graph.dead_ratio else ""
    return (
        f"M {graph.m}, ef_construction {graph.ef_construction}: {built}, {graph.bytes_per_chunk:,.0f} bytes/chunk{dead}"
    )


def _cells(point: Point) -> list[str]:
    return [str(point.ef), f"{point.recall:.3f} ± {point.error:.3f}", f"{point.p50_ms:.2f}", f"{point.p99_ms:.2f}"]


def _mark(present: bool, advice: Advice, point: Point) -> str:
    chosen = advice.choice is not None and point is advice.choice.point
    return " ".join(word for word, applies in (("now", present), ("<- choose", chosen)) if applies)


def report_json(results: list[GraphResult], present_ef: int, advice: Advice) -> dict[str, Any]:
    choice = advice.choice
    chosen = choice and {
        "m": choice.graph.m,
        "ef_construction": choice.graph.ef_construction,
        "ef_search": choice.point.ef,
    }
    return {
        "graphs": [_graph_json(graph, present_ef if graph is results[0] else None) for graph in results],
        "recommendation": {
            "verdict": advice.verdict,
            "choice": chosen,
            "environment": advice.environment,
            "text": advice.text,
        },
    }


def _graph_json(graph: GraphResult, present_ef: int | None) -> dict[str, Any]:
    points = [
        {
            "ef_search": point.ef,
            "recall_at_10": round(point.recall, 5),
            "recall_low": round(point.interval[0], 5),
            "recall_high": round(point.interval[1], 5),
            "p50_ms": round(point.p50_ms, 4),
            "p99_ms": round(point.p99_ms, 4),
            "present": point.ef == present_ef,
        }
        for point in graph.points
    ]
    return {
        "m": graph.m,
        "ef_construction": graph.ef_construction,
        "build_s": graph.build_s and round(graph.build_s, 3),
        "bytes_per_chunk": round(graph.bytes_per_chunk),
        "dead_ratio": round(graph.dead_ratio, 4),
        "points": points,
    }
