"""`headrace model`: prepare a model for runtimes that need no torch, and show which one is used."""

from __future__ import annotations

import importlib.metadata
import time
from pathlib import Path
from typing import Any

import click

from app.cli.model_table import show_survey
from app.cli.options import setting_flags
from app.local.console import Console
from app.model.bert_graph import why_not_bert
from app.model.choice import choices, this_machine
from app.model.export import export_onnx, export_openvino
from app.model.load import load_embedder
from app.model.prepared import check_texts
from app.model.reference import ReferenceEmbedder
from app.model.source import Source, fingerprint, open_source
from app.model.survey import Surveyed, survey
from app.observe.logs import set_up_logs
from app.settings import Settings, load_settings
from schemas.errors import ModelMissing

_FORMATS = ("openvino", "onnx")
_QUERIES = ["how do I reset my password", "side effects of ibuprofen", "which port does the gateway listen on"]
_PACKAGES = ("openvino", "onnxruntime", "torch", "sentence-transformers", "transformers", "tokenizers")


@click.group()
def model() -> None:
    """The model that makes vectors: prepare it, see which runtime is used."""


@model.command()
@setting_flags("model", "model_cache_dir", "model_threads")
@click.option("--to", "formats", type=click.Choice(_FORMATS), multiple=True, help="Only this export; may be repeated.")
def prepare(formats: tuple[str, ...], **flags: Any) -> None:
    """Export the model once, check every runtime against sentence-transformers, keep what agrees.

    Needs torch, here and now; afterwards the workers and gateways that find the cache folder run the model without.
    What does not give the neighbours of the reference is deleted and never used.
    """
    settings = load_settings(**flags)
    console = Console()
    source = open_source(settings)
    console.step(f"{source.folder.name}, revision {source.prepared.revision}, from {source.folder.path}")
    console.status("loading the reference, sentence-transformers")
    reference = ReferenceEmbedder(source.folder, source.prepared.revision, settings.model_threads)
    texts = check_texts()
    vectors = reference.embed(texts)
    console.step(f"{reference.runtime}: vectors of {len(texts)} texts to compare with")
    source.prepared.write(vectors, {})
    exported = _export(console, source, formats)
    found = []
    for one in survey(source, settings, this_machine(), (), _QUERIES):
        console.step(f"{one.name}: {one.agreement or one.problem or 'the reference'}")
        found.append(one)
    _drop_refused(console, exported, found)
    source.prepared.write(vectors, _facts(source, reference.dim, found))
    console.say()
    show_survey(found)
    console.say(f"\nKept in {source.prepared.folder}")


@model.command()
@setting_flags("model", "runtime", "precision", "model_cache_dir", "model_threads")
def show(**flags: Any) -> None:
    """Load the model as a worker does and say which runtime it is, how well it agrees, and what is prepared."""
    settings = load_settings(**flags)
    set_up_logs(settings)
    began = time.perf_counter()
    embedder = load_embedder(settings)
    embedder.embed(_QUERIES[:1])
    rows = {
        "fingerprint": embedder.fingerprint,
        "runtime": embedder.runtime,
        "first vector after": f"{time.perf_counter() - began:.2f} s, imports not counted",
        "longest input": f"{embedder.max_tokens} tokens",
    }
    if settings.runtime not in {"http", "hashing"}:
        rows |= _local_rows(settings)
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:{width}}  {value}")


def _local_rows(settings: Settings) -> dict[str, str]:
    source = open_source(settings)
    options = choices(source.folder, source.prepared, settings, this_machine(), bulk=True)
    prepared = source.prepared.facts()
    return {
        "folder": str(source.folder.path),
        "in this order": ", ".join(option.name for option in options),
        "prepared": f"{source.prepared.folder}, {prepared['made_at']}" if prepared else "no: `headrace model prepare`",
        "reference known": "yes" if source.prepared.reference is not None else "no: nothing is checked at start",
    }


def _export(console: Console, source: Source, formats: tuple[str, ...]) -> dict[str, Path]:
    """What was exported, by runtime."""
    reason = why_not_bert(source.folder)
    wanted = formats or _FORMATS
    exported: dict[str, Path] = {}
    if "openvino" in wanted and reason is None:
        console.step("openvino builds this model from its own weights: nothing to export")
    elif "openvino" in wanted:
        console.status("exporting for openvino")
        export_openvino(source.folder, source.prepared.openvino)
        exported["openvino"] = source.prepared.openvino
        console.step(f"exported {source.prepared.openvino}")
    if "onnx" in wanted:
        console.status("exporting for onnx")
        try:
            export_onnx(source.folder, source.prepared.onnx)
        except ModelMissing as error:
            if "onnx" in formats:
                raise
            console.step(f"not exported for onnx: {error}")
        else:
            exported["onnx"] = source.prepared.onnx
            console.step(f"exported {source.prepared.onnx}")
    return exported


def _drop_refused(console: Console, exported: dict[str, Path], found: list[Surveyed]) -> None:
    """Delete an export that agrees in no precision."""
    for runtime, file in exported.items():
        if not any(one.usable for one in found if one.runtime == runtime):
            for path in (file, file.with_suffix(".bin"), Path(f"{file}.data")):
                path.unlink(missing_ok=True)
            console.step(f"deleted {file}: it does not give the vectors of the reference")


def _facts(source: Source, dim: int, found: list[Surveyed]) -> dict[str, Any]:
    return {
        "model": source.folder.name,
        "fingerprint": fingerprint(source.folder, dim, source.prepared.revision),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "runtimes": [
            {
                "runtime": one.name,
                "usable": one.usable,
                "problem": one.problem,
                "cosine_min": one.agreement and one.agreement.cosine_min,
                "cosine_mean": one.agreement and one.agreement.cosine_mean,
                "top10_overlap": one.agreement and one.agreement.top10_overlap,
            }
            for one in found
        ],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
