"""The model alone, in a process of its own: how fast it embeds texts, and their vectors.

`encode` runs this module as a program.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import orjson
from numpy.typing import NDArray

from app.local.process import tied
from app.model.folder import ModelFolder
from app.model.load import load_embedder
from app.model.source import find_model
from app.settings import load_settings
from schemas.errors import ServiceMissing

_WARM_UP_TEXTS = 64  # the first calls of a shape cost more; the pipeline is warmed up by as many documents
_WITHIN_S = 900


@dataclass(frozen=True, slots=True)
class Encoded:
    """seconds: by part. vectors: by part, shape (texts, dim), unit length. runtime: as it calls itself."""

    runtime: str
    threads: int | None
    seconds: dict[str, float]
    vectors: dict[str, NDArray[np.float32]]


def encode(runtime: str, parts: Mapping[str, Sequence[str]], folder: Path) -> Encoded:
    """Embed each of some lists of texts in a new process, warmed up by the beginning of the first.

    runtime: `sentence-transformers`, or one of the product's. folder: for files. Raises ServiceMissing.
    """
    file, vectors = folder / "texts.json", folder / "vectors.npz"
    file.write_bytes(orjson.dumps({name: list(texts) for name, texts in parts.items()}))
    command = [sys.executable, "-m", "bench.bare", runtime, str(file), str(vectors)]
    done = subprocess.run(
        tied(command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_WITHIN_S, check=False
    )
    if done.returncode != 0:
        raise ServiceMissing(f"the bare model ({runtime}) did not run; the lines above may say why")
    told = orjson.loads(done.stdout.splitlines()[-1])
    with np.load(vectors) as file_of_vectors:
        return Encoded(told["runtime"], told["threads"], told["seconds"], dict(file_of_vectors))


@click.command()
@click.argument("runtime")
@click.argument("texts_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("vectors_file", type=click.Path(path_type=Path))
def bare(runtime: str, texts_file: Path, vectors_file: Path) -> None:
    """Embed the texts of a JSON object of arrays, write the vectors, print how long each array took."""
    parts: dict[str, list[str]] = orjson.loads(texts_file.read_bytes())
    name, threads, embed = sentence_transformers() if runtime == "sentence-transformers" else _product(runtime)
    embed(next(iter(parts.values()))[:_WARM_UP_TEXTS])
    seconds, vectors = {}, {}
    for part, texts in parts.items():
        began = time.perf_counter()
        vectors[part] = embed(texts)
        seconds[part] = time.perf_counter() - began
    np.savez(vectors_file, allow_pickle=False, **vectors)
    print(orjson.dumps({"runtime": name, "seconds": seconds, "threads": threads}).decode())


Embed = Callable[[list[str]], NDArray[np.float32]]


def sentence_transformers() -> tuple[str, int, Embed]:
    """`SentenceTransformer.encode` as its documentation shows it, on the CPU: its own batches of 32, its threads.

    Within one call it sorts the texts by length itself. Returns what it is called, its threads, and how to call it.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    settings = load_settings()
    folder = ModelFolder(find_model(settings.model), settings.model)
    model = SentenceTransformer(str(folder.path), device="cpu", local_files_only=True)
    model.max_seq_length = folder.max_tokens

    def embed(texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False), np.float32)

    return "sentence-transformers f32", torch.get_num_threads(), embed


def _product(runtime: str) -> tuple[str, int | None, Embed]:
    settings = load_settings(runtime=runtime)
    embedder = load_embedder(settings)
    return embedder.runtime, settings.model_threads or None, embedder.embed


if __name__ == "__main__":
    bare()
