"""`headrace status`: is everything ready, how far is it, what did the caches spare, and what is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.settings import Settings, load_settings
from schemas.errors import ServiceMissing

_TIMEOUT_S = 10
_NOT_TOLD = "the gateway knows no embed workers, since it has no Redis"

Answer = dict[str, Any]


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="HEADRACE_URL", help="The gateway.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as the gateway gave it.")
def status(url: str, as_json: bool) -> int:
    """Print the state of shards and embed workers, and what is in the way.

    Exit status: 0 when all of them are ready, else 1.
    """
    answer, local = asyncio.run(_gathered(url.rstrip("/"), _local_url(load_settings())))
    workers = answer["embed_workers"] if answer["embed_workers"] is not None else local
    obstacles = list(_obstacles(answer, workers))
    if as_json:
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    else:
        _show(Console(highlight=False), answer, workers, obstacles)
    return 1 if obstacles else 0


async def _gathered(url: str, local_url: str) -> tuple[Answer, list[Answer] | None]:
    """What the gateway says, and where it knows no embed workers, what the one on this machine says."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            answer = await _asked(session, url, "shards")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServiceMissing(
                f"no gateway at {url} (--url): {error or 'no answer'}. Start one with `headrace serve`."
            ) from error
        if answer.setdefault("embed_workers", None) is not None:
            return answer, None
        try:
            return answer, [await _asked(session, local_url, "runtime")]
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return answer, None


async def _asked(session: aiohttp.ClientSession, url: str, expected: str) -> Answer:
    """Raises ValueError where something else answers than a role of ours."""
    async with session.get(f"{url}/status") as response:
        body = await response.read()
        answer = orjson.loads(body) if response.status == 200 else None
    if not isinstance(answer, dict) or expected not in answer:
        raise ValueError(f"what answers there, with status {response.status}, is something else")
    return answer


def _local_url(settings: Settings) -> str:
    """Of an embed worker on this machine; one that listens everywhere can be reached where it listens, too."""
    host = f"[{settings.embed_host}]" if ":" in settings.embed_host else settings.embed_host
    return f"http://{host}:{settings.embed_port}"


def _obstacles(answer: Answer, workers: list[Answer] | None) -> Iterator[str]:
    if answer["reason"]:
        yield str(answer["reason"])
    for shard in answer["shards"]:
        if shard["paused"]:
            yield f"shard {shard['shard']} of replica {shard['replica']} paused: {shard['paused']}"
    if workers is not None and not workers:
        yield "no embed worker runs: changes are not embedded"
    for worker in workers or ():
        if worker["reason"]:
            yield f"embed worker {worker['worker']}: {worker['reason']}"


def _show(console: Console, answer: Answer, workers: list[Answer] | None, obstacles: list[str]) -> None:
    state = ("not ready", "bold red") if obstacles else ("ready", "bold green")
    console.print(Text.assemble((answer["collection"], "bold"), " ", state))
    console.print(f"model {answer['model']}, Redis {answer['services']['redis']}")
    stale = answer["staleness_ms"]
    freshness = "of unknown age" if stale is None else f"as of {answer['as_of']}, {stale:,} ms stale"
    console.print(f"{answer['documents']:,} documents, {answer['chunks']:,} chunks, {freshness}\n")
    console.print(_shards(answer["shards"]))
    if workers is None:
        console.print(f"\n{_NOT_TOLD}; none answers on this machine")
    elif answer["embed_workers"] is None:
        console.print(f"\n{_NOT_TOLD}; this one is on this machine:")
    for worker in workers or ():
        title = Text.assemble("\nembed worker ", (worker["worker"], "bold"), f" {worker['reason'] or 'ready'}")
        console.print(title)
        console.print(_worker(worker))
    if obstacles:
        console.print(Text("\nin the way", "bold"))
    for obstacle in obstacles:
        console.print(Text(f"  {obstacle}"))


def _shards(rows: list[Answer]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("shard", "replica", "state", "documents", "chunks", "stale", "worker"):
        table.add_column(name, justify="right" if name in ("documents", "chunks", "stale") else "left")
    for row in rows:
        stale = "" if row["staleness_ms"] is None else f"{row['staleness_ms']:,} ms"
        state = "paused" if row["paused"] else row["state"]
        counts = f"{row['documents']:,}", f"{row['chunks']:,}"
        table.add_row(str(row["shard"]), row["replica"] or "", state, *counts, stale, row["worker"] or "nobody")
    return table


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
