"""Chooses the runtime of a model and makes it ready."""

from __future__ import annotations

import logging
import time
from typing import Literal, cast

from app.model.bert_graph import why_not_bert
from app.model.embedder import Embedder
from app.model.folder import ModelFolder
from app.model.hashing import HashingEmbedder
from app.model.openvino_bert import OpenVinoBert, Precision, has_amx
from app.model.reference import ReferenceEmbedder
from app.model.source import find_model
from schemas.errors import ModelMissing

Runtime = Literal["auto", "openvino", "reference", "hashing"]

_log = logging.getLogger("headrace.model")
_WARM_UP = "The first call compiles the graph for its shape."


def load_embedder(name: str, runtime: Runtime, precision: str, threads: int) -> Embedder:
    """Load a model and embed one text with it, so that the first caller does not pay for it.

    name: a folder or a model's name (see `find_model`); not looked at by "hashing".
    runtime: "auto" is openvino for the architectures it can run, else the reference.
    precision: "auto", "f32" or "bf16", for openvino; the reference computes in f32. threads: 0 for all cores.
    Blocks for 0.5 s (openvino) to 6 s (reference), or for a download. Logs one line on "headrace.model".
    Raises ModelMissing.
    """
    if precision not in {"auto", "f32", "bf16"}:
        raise ModelMissing(f"unknown precision {precision!r}: use auto, f32 or bf16")
    started = time.perf_counter()
    embedder = _make(name, runtime, cast("Precision", precision), threads)
    embedder.embed([_WARM_UP])
    _log.info(
        "model %s loaded: runtime %s, CPU %s AMX, %d dimensions, %d tokens, %.0f ms",
        embedder.fingerprint,
        embedder.runtime,
        "with" if has_amx() else "without",
        embedder.dim,
        embedder.max_tokens,
        (time.perf_counter() - started) * 1e3,
    )
    return embedder


def _make(name: str, runtime: Runtime, precision: Precision, threads: int) -> Embedder:
    if runtime == "hashing":
        return HashingEmbedder()
    folder = ModelFolder(find_model(name), name)
    if runtime == "openvino" or (runtime == "auto" and why_not_bert(folder) is None):
        return OpenVinoBert(folder, precision, threads)
    return ReferenceEmbedder(folder, threads)
