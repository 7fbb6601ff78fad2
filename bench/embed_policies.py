"""The bare OpenVINO runtime with nothing around it, and the ways to cut texts into calls of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.model.bert_graph import build_encoder
from app.model.embedder import unit_rows
from app.model.folder import ModelFolder
from app.model.openvino_model import openvino_core
from app.model.runs import Run, Tokens, plan
from app.model.source import find_model
from app.model.token_model import Mask, TokenIds
from app.model.tokens import ModelTokenizer
from app.settings import Settings

Batch = tuple[NDArray[np.intp], TokenIds, Mask]
"""Indices of the texts of a call, and what the model is given."""


@dataclass(frozen=True, slots=True)
class Policy:
    """requests: "one" on all cores (LATENCY), or "several" beside each other, as many as OpenVINO says (THROUGHPUT).

    cut: "sorted", the longest texts first, as many in a call as its budget of padded tokens lets in; "planned", by
    `plan` of the product, over all texts; "arrival", 32 texts in a call as they come, the budget is not used.
    step: lengths are padded to a multiple of it.
    """

    requests: str
    cut: str
    budget_tokens: int
    step: int

    def __str__(self) -> str:
        if self.cut == "arrival":
            return f"{self.requests}: in order of arrival, {_ARRIVING} texts a call"
        return f"{self.requests}: {self.cut}, {self.budget_tokens:,} tokens a call, step {self.step}"


_ARRIVING = 32
ARRIVAL = Policy("one", "arrival", 0, 1)
GRID = tuple(
    Policy(requests, cut, budget, step)
    for requests in ("one", "several")
    for budget in (1024, 2048, 4096)
    for cut, step in (("sorted", 1), ("sorted", 16), ("planned", 16))
)


class BareOpenVino:
    """The model as OpenVINO runs it, and the texts of the benchmark as tokens.

    Batches are tokenised and padded before the clock starts; it stops when all vectors are in one array.
    """

    def __init__(self, settings: Settings, precision: str) -> None:
        folder = ModelFolder(find_model(settings.model), settings.model)
        self._tokenizer = ModelTokenizer(folder)
        self._pad_id = int(folder.config.get("pad_token_id") or 0)
        self._dim = int(folder.config["hidden_size"])
        self.runtime = f"openvino {precision}"
        graph = build_encoder(folder)
        one, several = (_compiled(graph, precision, settings.model_threads, hint) for hint in ("LATENCY", "THROUGHPUT"))
        count = int(several.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.threads = int(one.get_property("INFERENCE_NUM_THREADS"))
        self.requests = {
            "one": [one.create_infer_request()],
            "several": [several.create_infer_request() for _ in range(count)],
        }

    def embed(self, texts: Sequence[str], policy: Policy) -> tuple[NDArray[np.float32], dict[str, float]]:
        """Unit vectors in the order of the texts, and how many seconds, calls and tokens it took."""
        ids = self._tokenizer.ids(texts)
        runs = list(_runs([Tokens(at, own) for at, own in enumerate(ids)], policy))
        batches = [(np.array([text.index for text in run.texts]), *run.arrays(self._pad_id)) for run in runs]
        vectors = np.empty((len(texts), self._dim), np.float32)
        began, used_s = time.perf_counter(), time.process_time()
        _run_all(self.requests[policy.requests], batches, vectors)
        seconds, used_s = time.perf_counter() - began, time.process_time() - used_s
        return unit_rows(vectors), {
            "seconds": seconds,
            "cpu_seconds": used_s,
            "runs": len(runs),
            "tokens": sum(map(len, ids)),
            "padded_tokens": sum(run.padded_tokens for run in runs),
        }


def _runs(texts: Sequence[Tokens], policy: Policy) -> Iterator[Run]:
    if policy.cut == "arrival":
        for start in range(0, len(texts), _ARRIVING):
            part = texts[start : start + _ARRIVING]
            yield Run(part, max(len(text.ids) for text in part), len(part))
        return
    ordered = sorted(texts, key=lambda text: -len(text.ids))
    if policy.cut == "planned":
        yield from plan(ordered, policy.budget_tokens, policy.step)
        return
    start = 0
    while start < len(ordered):
        length = -(-len(ordered[start].ids) // policy.step) * policy.step
        end = start + max(1, policy.budget_tokens // length)
        yield Run(ordered[start:end], length, end - start)
        start = end


def _run_all(requests: Sequence[Any], batches: Sequence[Batch], vectors: NDArray[np.float32]) -> None:
    """Every request in a thread of its own takes the next batch when it is done; one request in this thread."""
    if len(requests) == 1:
        for batch in batches:
            _infer(requests[0], batch, vectors)
        return
    rest, lock = iter(batches), threading.Lock()
    errors: list[Exception] = []

    def next_batch() -> Batch | None:
        with lock:
            return next(rest, None)

    threads = [
        threading.Thread(target=_take_turns, args=(request, next_batch, vectors, errors)) for request in requests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _take_turns(
    request: Any, next_batch: Callable[[], Batch | None], vectors: NDArray[np.float32], errors: list[Exception]
) -> None:
    try:
        while (batch := next_batch()) is not None:
            _infer(request, batch, vectors)
    except Exception as error:  # noqa: BLE001 - whoever started the thread raises it
        errors.append(error)


def _infer(request: Any, batch: Batch, vectors: NDArray[np.float32]) -> None:
    rows, ids, mask = batch
    request.infer([ids, mask], share_inputs=True)
    vectors[rows] = request.get_output_tensor(0).data[: len(rows)]


def _compiled(graph: Any, precision: str, threads: int, hint: str) -> Any:
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": hint}
    if threads:  # the product's setting, and what goes with it
        options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    return openvino_core().compile_model(graph, "CPU", options)
