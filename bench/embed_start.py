"""One start of a process up to the first vector, told step by step: a program that `bench.embed_starts` runs.

`python -m bench.embed_start ROLE BEGAN_NS`. What it imports before the clock of its first step would be measured.
"""

from __future__ import annotations

import importlib
import sys
import time
from functools import partial
from typing import Any, Literal

ROLES = {"model alone": False, "gateway": False, "embed worker": True}
"""Whether each loads the model for many texts at a time."""
STEPS = "steps"
_MODULES = {"gateway": "app.cli.serve", "embed worker": "consumers.embed.command"}
_QUERY = "how long does it take until the first vector"


class Steps:
    """Seconds between calls, by name. began_ns: of the monotonic clock, which all processes share."""

    def __init__(self, began_ns: int) -> None:
        self._last_ns = began_ns
        self.seconds: dict[str, float] = {}

    def done(self, name: str) -> None:
        """So long since the last step."""
        now_ns = time.monotonic_ns()
        self.seconds[name] = (now_ns - self._last_ns) / 1e9
        self._last_ns = now_ns


def _role(role: str, steps: Steps) -> None:
    """As the roles do it: their imports, then the model."""
    steps.done("interpreter")
    if role in _MODULES:
        importlib.import_module(_MODULES[role])
    from app.model.load import load_embedder
    from app.settings import load_settings

    steps.done("imports")
    embedder = load_embedder(load_settings(), bulk=ROLES[role])
    steps.done("load")
    embedder.embed([_QUERY])
    steps.done("first query")


def _one_by_one(steps: Steps) -> None:
    """What loading consists of, on OpenVINO; the graph is compiled for single queries and then for many texts."""
    steps.done("interpreter")
    from app.model.load import embedder_of  # noqa: F401 - imports everything that loading does
    from app.settings import load_settings

    steps.done("imports of the product")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: F401

    steps.done("import of openvino")
    settings = load_settings()
    _open(settings, steps)


def _open(settings: Any, steps: Steps) -> None:
    from app.model.batched import BatchedEmbedder
    from app.model.bert_graph import build_encoder
    from app.model.folder import ModelFolder
    from app.model.openvino_model import OpenVinoModel, has_amx
    from app.model.prepared import Prepared, cache_folder, start_agreement
    from app.model.source import find_model, model_revision
    from app.model.tokens import ModelTokenizer

    folder = ModelFolder(find_model(settings.model), settings.model)
    prepared = Prepared(cache_folder(settings.model_cache_dir), folder.name, partial(str, model_revision(folder)))
    steps.done("fingerprint, which loading computes beside the rest")
    tokenizer = ModelTokenizer(folder)
    steps.done("tokenizer")
    graph = build_encoder(folder)
    steps.done("graph")
    precision: Literal["bf16", "f32"] = "bf16" if has_amx() else "f32"
    model = OpenVinoModel(graph, precision, settings.model_threads, bulk=False)
    steps.done("compile for single queries")
    embedder = BatchedEmbedder(folder, tokenizer, model, "")
    reference = prepared.reference
    if reference is not None:
        start_agreement(embedder, reference)
        steps.done("check")
    embedder.embed([_QUERY])
    steps.done("first query")
    OpenVinoModel(graph, precision, settings.model_threads, bulk=True)
    steps.done("(compile for single queries and for bulk)")


def _main(role: str, began_ns: int) -> None:
    steps = Steps(began_ns)
    if role == STEPS:
        _one_by_one(steps)
    else:
        _role(role, steps)
        steps.seconds["first vector"] = (time.monotonic_ns() - began_ns) / 1e9
        steps.seconds["CPU time"] = time.process_time()
    import orjson

    sys.stdout.buffer.write(orjson.dumps(steps.seconds) + b"\n")


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
