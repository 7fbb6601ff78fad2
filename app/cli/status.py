"""`headrace status`: is everything ready, how far is it, what did the caches spare, and what is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli import words
from app.cli.asking import Answer, Told, ask, is_missed
from app.settings import load_settings

_TIMEOUT_S = 10
_NOT_TOLD = "the gateway knows no embed workers, since it has no Redis"


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="HEADRACE_URL", help="The gateway.")
@click.option("--objective", "hold_to", is_flag=True, help="Status 1 while the freshness objective is missed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as the gateway gave it.")
def status(url: str, hold_to: bool, as_json: bool) -> int:
    """Print the state of shards and embed workers, how fresh documents are, and what is in the way.

    Exit status: 0 when all of them are ready, else 1. The objective is missed while it burns above 1 over the last
    five minutes and the last hour: not what a script should wait for that waits for a start.
    """
    told = asyncio.run(_asked(url.rstrip("/")))
    if as_json:
        click.echo(orjson.dumps(told.answer, option=orjson.OPT_INDENT_2))
    else:
        _show(Console(highlight=False), told)
    missed = hold_to and is_missed(told.answer["freshness"])
    return 1 if told.obstacles or missed else 0


async def _asked(url: str) -> Told:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        return await ask(session, url, load_settings())


def _show(console: Console, told: Told) -> None:
    answer, obstacles = told.answer, told.obstacles
    state = ("not ready", "bold red") if obstacles else ("ready", "bold green")
    console.print(Text.assemble((answer["collection"], "bold"), " ", state))
    console.print(f"model {answer['model']}, Redis {answer['services']['redis']}")
    stale = answer["staleness_ms"]
    freshness = "of unknown age" if stale is None else f"as of {answer['as_of']}, {stale:,} ms stale"
    console.print(f"{answer['documents']:,} documents, {answer['chunks']:,} chunks, {freshness}")
    console.print(Text.assemble("objective ", *words.objective(answer["freshness"])))
    console.print(_lag(answer.get("lag")) + "\n", soft_wrap=True)
    console.print(_shards(answer))
    console.print(_steps(answer["freshness"]))
    if told.workers is None:
        console.print(f"\n{_NOT_TOLD}; none answers on this machine")
    elif told.local:
        console.print(f"\n{_NOT_TOLD}; this one is on this machine:")
    for worker in told.workers or ():
        title = Text.assemble("\nembed worker ", (worker["worker"], "bold"), f" {worker['reason'] or 'ready'}")
        console.print(title)
        console.print(_worker(worker))
    if obstacles:
        console.print(Text("\nin the way", "bold"))
    for obstacle in obstacles:
        console.print(Text(f"  {obstacle}"))


def _table(*columns: str, right: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left")
    return table


def _shards(answer: Answer) -> Table:
    counts = "documents", "chunks", "stale"
    table = _table("shard", "replica", "state", *counts, "worker", right=counts)
    for row in answer["shards"]:
        stale = "" if row["staleness_ms"] is None else f"{row['staleness_ms']:,} ms"
        state = "paused" if row["paused"] else row["state"]
        numbers = f"{row['documents']:,}", f"{row['chunks']:,}", stale
        table.add_row(str(row["shard"]), row["replica"] or "", state, *numbers, row["worker"] or "nobody")
    return table


def _steps(freshness: Answer) -> Table | Text:
    """Where the time of the newest documents went."""
    latency = freshness["latency_ms"]
    if not latency["count"]:
        return Text("\nno document became visible in the last five minutes")
    table = _table(f"\nthe last {latency['count']:,} documents", "\np50", "\np99", right=("\np50", "\np99"))
    for name, step in freshness["steps"].items():
        table.add_row(f"  {name}", words.took(step["p50_ms"]), words.took(step["p99_ms"]))
    table.add_row("  in all", words.took(latency["p50"]), words.took(latency["p99"]))
    return table


def _lag(lag: Answer | None) -> str:
    """What waits in Kafka: a line for each stage, by its partition that is farthest behind."""
    if lag is None:
        return "lag: this gateway does not tell it"
    if not lag["known"]:
        return f"lag: not known; {lag['reason']}"
    lines = []
    for stage in ("embed", "index"):
        told = {partition: row for partition, row in lag[stage].items() if row["records"] is not None}
        if not told:
            lines.append(f"{stage:<6} not known: no worker tells it")
            continue
        records = sum(row["records"] for row in told.values())
        partition, oldest = max(told.items(), key=lambda item: item[1]["seconds"])
        where = f", the first for {oldest['seconds']:,.1f} s in partition {partition}" if records else ""
        lines.append(f"{stage:<6} {records:,} records wait{where}")
    if lag["dead_letters"] is not None:
        lines.append(f"dead letters: {lag['dead_letters']:,}")
    return "\n".join(lines)


def _worker(told: Answer) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    ratio = "nothing yet" if told["hit_ratio"] is None else f"{told['hit_ratio']:.1%} hits"
    partitions = ", ".join(map(str, told["partitions"])) or "none"
    events, chunks = _counts(told["events"]), _counts(told["chunks"])
    spent, saved = told["model_seconds"], told["model_seconds_saved"]
    rows = {
        "model": f"{told['model']}, {told['runtime']}",
        "partitions": partitions,
        "events": f"{told['events_per_s']:,.1f}/s lately, {told['waiting_events']:,} waiting; {events or 'none yet'}",
        "chunks": f"{ratio}: {told['hits']:,} hits, {told['misses']:,} misses" + (f" ({chunks})" if chunks else ""),
        "model time": f"{spent:,.1f} s spent in {told['model_calls']:,} calls, about {saved:,.1f} s saved",
        "Redis": f"{told['redis']}, {told['redis_seconds']:,.1f} s spent, {told['redis_failures']:,} failures",
        "batches": f"{told['batches']:,}" + _batch(told),
    }
    for name, text in rows.items():
        table.add_row(f"  {name}", Text(text))
    return table


def _batch(told: Answer) -> str:
    if told["batch_events"] is None or told["batch_seconds"] is None:
        return ""
    return f", on average {told['batch_events']:,.1f} events in {1000 * told['batch_seconds']:,.0f} ms"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
