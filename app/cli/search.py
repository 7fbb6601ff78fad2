"""`headrace search`: ask a gateway from the command line."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import orjson
from rich.console import Console
from rich.text import Text

from app.gateway.remote import ask_once

_MODES = ("hybrid", "vector", "keyword")
_SHOWN_CHARS = 400
_SCORE_DIGITS = {"vector": 3, "keyword": 2, "hybrid": 4}  # the fused scores of neighbours differ by less than 0.001


@click.command()
@click.argument("query", nargs=-1, required=True)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="HEADRACE_URL", help="The gateway.")
@click.option("-k", default=5, show_default=True, help="How many documents.")
@click.option(
    "--mode",
    type=click.Choice(_MODES),
    default="hybrid",
    show_default=True,
    help="By meaning (vector), by keywords, or by both.",
)
@click.option("--filter", "metadata", default=None, help='Metadata filter as JSON, e.g. \'{"lang": "en"}\'.')
@click.option("--min-offsets", default=None, help="Wait until these are applied, as JSON: '{\"0\": 41}'.")
@click.option("-v", "--verbose", is_flag=True, help="Also the scores and places in each search, and further chunks.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as the gateway gave it.")
def search(
    query: tuple[str, ...],
    url: str,
    k: int,
    mode: str,
    metadata: str | None,
    min_offsets: str | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Search for QUERY and print the best documents, and how fresh the answer is.

    Keywords: '"two words"' must stand side by side, 'turb*' is any word that begins so, '-word' must not occur.
    """
    body: dict[str, Any] = {"query": " ".join(query), "k": k, "mode": mode}
    body |= {name: _json(name, value) for name, value in (("filter", metadata), ("min_offsets", min_offsets)) if value}
    answer = asyncio.run(ask_once(url, "POST", "/search", body))
    if as_json:
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    else:
        _show(answer, verbose)


def _show(answer: dict[str, Any], verbose: bool) -> None:
    console = Console()
    digits = _SCORE_DIGITS[answer["mode"]]
    for hit in answer["hits"]:
        score = (f"{hit['score']:.{digits}f}  ", "cyan")
        console.print(Text.assemble(score, (hit["title"] or hit["id"], "bold"), f"  {hit['id']}"))
        if verbose:
            console.print(Text(_places(hit), "dim"))
        console.print(_marked(hit))
        for chunk in hit["chunks"][1:] if verbose else ():
            console.print(Text(f"also, from {chunk['start']} to {chunk['end']}:", "dim"))
            console.print(_marked(chunk))
        console.print()
    if answer["partial"]:
        console.print(Text(f"partial: missing shards {answer['missing_shards']}", "bold red"))
    staleness = answer["freshness"]["staleness_ms"]
    told = "nothing indexed yet" if staleness is None else f"as of {answer['freshness']['as_of']}, {staleness} ms stale"
    console.print(Text(f"{len(answer['hits'])} hits in {answer['took_ms']} ms, {told}", "dim"))


def _marked(found: dict[str, Any]) -> Text:
    """The text of a hit or chunk with its highlights."""
    text = Text(found["text"])
    for span in found["highlights"]:
        text.stylize("bold yellow", span["start"], span["end"])
    text.truncate(_SHOWN_CHARS, overflow="ellipsis")
    return text


def _places(hit: dict[str, Any]) -> str:
    """Score and place of a hit in each of the two searches, as far as they found it."""
    lists = (
        ("meaning", hit["vector_score"], hit["vector_rank"]),
        ("keywords", hit["keyword_score"], hit["keyword_rank"]),
    )
    return " · ".join(f"{name} {score:.3f} (place {rank})" for name, score, rank in lists if rank is not None)


def _json(name: str, value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"--{name.replace('_', '-')} is not JSON: {error}") from error
