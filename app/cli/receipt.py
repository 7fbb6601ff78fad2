"""`headrace receipt`: which replicas have the newest state of a document, and since when; for deletes, the proof."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.gateway.remote import ask_document


@click.command()
@click.argument("document_id", metavar="ID")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="HEADRACE_URL", help="The gateway.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as the gateway gave it.")
def receipt(document_id: str, url: str, as_json: bool) -> int:
    """Print what every replica holds under ID, deleted documents included.

    Exit status: 0 when every known replica has the newest state of it, else 1; also 1 for an ID that nobody ever had.
    """
    answer = asyncio.run(_ask(url, document_id))
    if as_json:
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    else:
        _show(Console(highlight=False), answer)
    return 0 if answer["everywhere_at"] is not None else 1


async def _ask(url: str, document_id: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session:
        return await ask_document(session, url, document_id, "/receipt")


def _show(console: Console, answer: dict[str, Any]) -> None:
    source, version = answer["source"], answer["version"]
    of_version = "" if version is None else f", version {version}"
    console.print(Text.assemble((answer["id"], "bold"), f" is {answer['state']}{of_version}"))
    console.print(f"  change   partition {source['partition']}, offset {source['offset']}, {answer['event_time']}")
    if answer["trace_id"] is not None:
        console.print(f"  trace    {answer['trace_id']}")
    table = Table(box=None, padding=(0, 2))
    for name in ("replica", "holds", "since", "applied offset", "as of", "worker"):
        table.add_column(name, overflow="fold")
    for name, replica in answer["replicas"].items():
        table.add_row(*_cells(name, replica), style="" if replica["has_it"] else "red")
    for missing in answer["missing_replicas"]:
        name = "?" if missing["replica"] is None else missing["replica"]
        table.add_row(name, "does not say", "", "", missing["reason"], missing["worker"], style="red")
    console.print(table)
    done = {"deleted": "invisible", "indexed": "visible"}[answer["state"]]
    if answer["everywhere_at"] is None:
        console.print(Text("not on every known replica yet", "bold red"))
    else:
        told = f"{done} on every known replica since {answer['everywhere_at']}, {answer['took_ms']} ms after the event"
        console.print(Text(told, "green"))


def _cells(name: str, replica: dict[str, Any]) -> list[str]:
    offset = replica["source_offset"]
    holds = replica["state"] if offset is None else f"{replica['state']} (offset {offset})"
    since = ("indexed_time", "applied_offset", "as_of", "worker")
    return [name, holds, *("" if replica[key] is None else str(replica[key]) for key in since)]
