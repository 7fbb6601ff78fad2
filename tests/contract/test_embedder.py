"""What every Embedder promises, asked of the fake and of both real runtimes; and that these two agree."""

from __future__ import annotations

import argparse
import decimal
import email.message
import inspect
import logging
import pathlib
import platform
import random
import statistics
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal

import numpy as np
import pytest

from app.model.agreement import agreement
from app.model.embedder import Embedder
from app.model.folder import ModelFolder
from app.model.hashing import HashingEmbedder
from app.model.load import load_embedder
from app.model.server.embedder import HttpEmbedder
from app.model.source import DEFAULT_MODEL, find_model
from app.settings import Settings
from schemas.errors import ModelMissing, UnembeddableText
from tests.embeddings_server import EmbeddingsServer
from tests.services import need

TEXTS = ["A mill needs water.", "", "Bonjour, où est le canal ?", "漢字 and 😀\0", "word " * 90, "x" * 300, "short"]


@pytest.fixture(scope="module")
def folder() -> ModelFolder:
    try:
        return ModelFolder(find_model(DEFAULT_MODEL), DEFAULT_MODEL)
    except ModelMissing as error:
        need(False, str(error))
        raise


@pytest.fixture(scope="module")
def openvino(folder: ModelFolder) -> Embedder:
    need(find_spec("openvino") is not None, "openvino is not installed")
    return loaded("openvino", "f32")


@pytest.fixture(scope="module")
def reference(folder: ModelFolder) -> Embedder:
    installed = find_spec("sentence_transformers") is not None and find_spec("torch") is not None
    need(installed, "sentence-transformers with torch is not installed: `pip install sentence-transformers`")
    return loaded("reference", "auto")


@pytest.fixture(scope="module")
def http() -> Iterator[Embedder]:
    with EmbeddingsServer() as server:
        settings = Settings(_env_file=None, runtime="http", embeddings_url=server.url, embeddings_batch_texts=3)
        embedder = HttpEmbedder(settings)
        yield embedder
        embedder.close()


def loaded(runtime: str, precision: str, threads: int = 0) -> Embedder:
    return load_embedder(
        Settings(_env_file=None, runtime=runtime, precision=precision, model=DEFAULT_MODEL, model_threads=threads)
    )


@pytest.fixture(
    scope="module",
    params=[
        "hashing",
        "http",
        pytest.param("openvino", marks=pytest.mark.model),
        pytest.param("reference", marks=[pytest.mark.model, pytest.mark.reference]),
    ],
)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    if request.param == "hashing":
        return HashingEmbedder()
    loaded: Embedder = request.getfixturevalue(request.param)
    return loaded


def test_vectors_are_unit_rows_of_contiguous_float32(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dim)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-3


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    vectors = embedder.embed([])
    assert vectors.shape == (0, embedder.dim)
    assert vectors.dtype == np.float32


def test_a_text_has_the_same_vector_whatever_is_in_the_call_with_it(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    shuffled = random.Random(1).sample(range(len(TEXTS)), len(TEXTS))
    reordered = embedder.embed([TEXTS[index] for index in shuffled])
    assert (together * alone).sum(axis=1).min() > 0.9999
    assert (together[shuffled] * reordered).sum(axis=1).min() > 0.9999


def test_a_later_call_does_not_change_vectors_given_earlier(embedder: Embedder) -> None:
    first = embedder.embed(["one"])
    kept = first.copy()
    embedder.embed(["another"])
    assert (first == kept).all()


def test_a_very_long_text_is_cut_at_the_models_limit_not_refused(embedder: Embedder) -> None:
    long, longer = embedder.embed(["river mill " * 1000, "river mill " * 1000 + "unrelated words " * 10_000])
    assert long @ longer > 0.9999


def test_what_is_seen_ends_exactly_at_max_tokens(embedder: Embedder) -> None:
    room = embedder.max_tokens - embedder.tokenizer.special_tokens
    full, over, under = embedder.embed(["mill " * room, "mill " * room + "river", "mill " * (room - 1) + "river"])
    assert np.abs(full - over).max() < 1e-4 < np.abs(full - under).max()


def test_a_text_that_is_not_unicode_is_named_by_its_position(embedder: Embedder) -> None:
    with pytest.raises(UnembeddableText) as caught:
        embedder.embed(["fine", "fine too", "broken \ud800"])
    assert caught.value.position == 2


def test_an_embedder_says_what_it_is(embedder: Embedder) -> None:
    assert embedder.fingerprint.startswith(f"{embedder.name}@")
    assert f"/{embedder.dim}/" in embedder.fingerprint
    assert embedder.tokenizer.max_tokens == embedder.max_tokens
    assert embedder.runtime


@pytest.mark.model
def test_related_texts_are_nearer_than_unrelated_ones(openvino: Embedder) -> None:
    query, near, far = openvino.embed(["how do I reset my password", "Changing your login secret", "Pasta with garlic"])
    assert query @ near > query @ far + 0.2


@pytest.mark.model
def test_a_number_of_threads_does_not_change_the_vectors(openvino: Embedder) -> None:
    single = loaded("openvino", "f32", threads=1)
    assert (single.embed(TEXTS) * openvino.embed(TEXTS)).sum(axis=1).min() > 0.9999


@pytest.mark.model
@pytest.mark.reference
@pytest.mark.parametrize(
    ("precision", "least_cosine", "least_overlap"),
    [
        ("f32", 0.9999, 0.999),
        pytest.param(
            "bf16",
            0.999,
            0.98,
            marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="bf16 is for x86 CPUs with AMX"),
        ),
    ],
)
def test_openvino_gives_the_vectors_of_the_reference(
    reference: Embedder,
    precision: Literal["f32", "bf16"],
    least_cosine: float,
    least_overlap: float,
) -> None:
    fast = loaded("openvino", precision)
    found = agreement(fast, reference, standard_library_docstrings(200))
    assert found.cosine_min >= least_cosine
    assert found.top10_overlap >= least_overlap
    assert fast.fingerprint == reference.fingerprint


def standard_library_docstrings(count: int) -> list[str]:
    """Different texts of real English, from one line to pages."""
    modules = (argparse, decimal, email.message, inspect, logging, pathlib, random, statistics, subprocess)
    parts = [part for module in modules for _, part in inspect.getmembers(module) if inspect.getmodule(part) in modules]
    members = [member for part in parts if inspect.isclass(part) for _, member in inspect.getmembers(part)]
    docs = dict.fromkeys(doc for part in [*parts, *members] if (doc := inspect.getdoc(part)))
    assert len(docs) >= count
    return list(docs)[:count]
