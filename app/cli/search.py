"""`headrace search`: ask a gateway from the command line."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import click
import orjson
from rich.console import Console
from rich.text import Text

from schemas.errors import BadRequest, ServiceMissing

_TIMEOUT_S = 30


@click.command()
@click.argument("query", nargs=-1, required=True)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="HEADRACE_URL", help="The gateway.")
@click.option("-k", default=5, show_default=True, help="How many documents.")
@click.option("--filter", "metadata", default=None, help='Metadata filter as JSON, e.g. \'{"lang": "en"}\'.')
@click.option("--min-offsets", default=None, help="Wait until these are applied, as JSON: '{\"0\": 41}'.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as the gateway gave it.")
def search(
    query: tuple[str, ...], url: str, k: int, metadata: str | None, min_offsets: str | None, as_json: bool
) -> None:
    """Search for QUERY and print the best documents, and how fresh the answer is."""
    body: dict[str, Any] = {"query": " ".join(query), "k": k}
    body |= {name: _json(name, value) for name, value in (("filter", metadata), ("min_offsets", min_offsets)) if value}
    answer = asyncio.run(_ask(url.rstrip("/"), body))
    if as_json:
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    else:
        _show(answer)


async def _ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{url}/search", data=orjson.dumps(body)) as response,
        ):
            answer: dict[str, Any] = orjson.loads(await response.read())
            status = response.status
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
        raise ServiceMissing(
            f"no gateway at {url} (--url): {error or 'no answer'}. Start one with `headrace serve`."
        ) from error
    if status != 200:
        raise BadRequest(answer["error"]["message"])
    return answer


def _show(answer: dict[str, Any]) -> None:
    console = Console()
    for hit in answer["hits"]:
        console.print(
            Text.assemble((f"{hit['score']:.3f}  ", "cyan"), (hit["title"] or hit["id"], "bold"), f"  {hit['id']}")
        )
        text = Text(hit["text"])
        for span in hit["highlights"]:
            text.stylize("bold yellow", span["start"], span["end"])
        text.truncate(400, overflow="ellipsis")
        console.print(text, end="\n\n")
    if answer["partial"]:
        console.print(Text(f"partial: missing shards {answer['missing_shards']}", "bold red"))
    staleness = answer["freshness"]["staleness_ms"]
    told = "nothing indexed yet" if staleness is None else f"as of {answer['freshness']['as_of']}, {staleness} ms stale"
    console.print(Text(f"{len(answer['hits'])} hits in {answer['took_ms']} ms, {told}", "dim"))


def _json(name: str, value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"--{name.replace('_', '-')} is not JSON: {error}") from error
