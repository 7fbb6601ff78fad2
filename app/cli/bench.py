"""`headrace bench`: measure this machine."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.model_table import show_survey
from app.cli.options import setting_flags
from app.local.console import Console
from app.local.corpus import docstrings
from app.model.choice import this_machine
from app.model.load import load_embedder
from app.model.measure import speed
from app.model.openvino_model import has_amx
from app.model.source import open_source
from app.model.survey import Surveyed, fastest, quickest, survey
from app.settings import Settings, load_settings
from schemas.errors import BadRequest

_QUERY_CHARS = 60
_SINGLE_TEXTS = 30


@click.group()
def bench() -> None:
    """Measure what this machine can do with the settings at hand."""


@bench.command()
@setting_flags("model", "model_cache_dir", "model_threads", "embeddings_url")
@click.option("--count", default=400, show_default=True, type=click.IntRange(8, 100_000), help="Texts to embed.")
@click.option(
    "--texts",
    "texts_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts of your own, one on each line, in place of docstrings of Python's packages.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def embed(count: int, texts_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Embed real texts with every runtime that is here, print how fast each is, and recommend one.

    Half a minute to some minutes. A runtime that does not give the neighbours of the reference is not measured.
    """
    settings = load_settings(**flags)
    texts = _texts(texts_file, count)
    console = Console(sys.stderr, sys.stderr)
    source = open_source(settings)
    machine = this_machine()
    console.step(
        f"{source.folder.name}: {len(texts)} texts of {sum(map(len, texts)) / len(texts):.0f} characters in the mean; "
        f"CPU {'with' if machine.amx else 'without'} AMX, {'a' if machine.cuda else 'no'} CUDA device"
    )
    found = []
    console.status("measuring")
    for one in survey(source, settings, machine, texts, [text[:_QUERY_CHARS] for text in texts[:_SINGLE_TEXTS]]):
        console.step(f"{one.name}: {one.problem or 'measured'}")
        found.append(one)
    if settings.embeddings_url:
        found.append(_http(settings, texts))
    advice = _advice(found)
    if as_json:
        click.echo(orjson.dumps({"runtimes": found, "advice": advice}, option=orjson.OPT_INDENT_2))
        return
    click.echo()
    show_survey(found)
    click.echo(f"\n{advice}")


def _texts(file: Path | None, count: int) -> list[str]:
    if file is None:
        return [document.text for document in docstrings(count)]
    lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    texts = list(islice((line for line in lines if line), count))
    if not texts:
        raise BadRequest(f"{file} has no text")
    return texts


def _http(settings: Settings, texts: list[str]) -> Surveyed:
    embedder = load_embedder(settings.model_copy(update={"runtime": "http"}))
    queries = [text[:_QUERY_CHARS] for text in texts[:_SINGLE_TEXTS]]
    return Surveyed("http", embedder.runtime, None, None, None, speed(embedder, texts, queries))


def _advice(found: list[Surveyed]) -> str:
    best, quick = fastest(found), quickest(found)
    if best is None or quick is None or best.speed is None or quick.speed is None:
        return "No runtime works here: the table says why."
    automatic = _automatic(found)
    fits = "takes it" if best.runtime == automatic else f"takes {automatic}: set HEADRACE_RUNTIME={best.runtime}"
    lines = [
        f"Fastest for documents: {best.name}, {best.speed.texts_per_s:.0f} texts/s.",
        f"Quickest for a query: {quick.name}, {quick.speed.single_ms:.1f} ms.",
        f"HEADRACE_RUNTIME=auto {fits}.",
    ]
    if not has_amx() and "bf16" in best.name and "cuda" not in best.name:
        lines.append("bf16 without AMX is seldom faster: measure again on a quiet machine before you set it.")
    return "\n".join(lines)


def _automatic(found: list[Surveyed]) -> str:
    """The runtime that `auto` takes: the first usable one in its order."""
    order = ["torch"] if any("cuda" in one.name for one in found if one.usable) else []
    usable = {one.runtime for one in found if one.usable}
    return next((runtime for runtime in (*order, "openvino", "onnx", "reference") if runtime in usable), "none")
