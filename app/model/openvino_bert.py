"""The fast runtime: BERT sentence encoders on OpenVINO, on the CPU, without torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.model.bert_graph import build_encoder
from app.model.embedder import unit_rows
from app.model.folder import ModelFolder
from app.model.source import fingerprint
from app.model.tokens import ModelTokenizer
from schemas.errors import EmbedderUnavailable, ModelMissing, UnembeddableText

Precision = Literal["auto", "f32", "bf16"]

TOKENS_PER_CALL = 2048  # 340 docs/s; 1,024 gives 315, 8,192 gives 301 and holds a query up for 0.3 s
_LENGTH_STEP = 16  # lengths are padded to a multiple: each new shape costs time at first use (1: 332, 16: 398 docs/s)
_MOST_PADDING_RATIO = 0.15  # measured for batches of 4 to 16 mixed texts: 1.4 to 1.7 times the documents a second


class OpenVinoBert:
    """Embedder (see there) for BERT encoders with mean or cls pooling.

    Texts of one call are sorted by length and go through the model in runs of at most `tokens_per_call` tokens,
    padding included: in order of arrival, padding to the longest would make batches slower than single texts.
    """

    def __init__(
        self,
        folder: ModelFolder,
        precision: Precision = "auto",
        threads: int = 0,
        tokens_per_call: int = TOKENS_PER_CALL,
    ) -> None:
        """Load and compile, 0.3 to 0.6 s.

        precision: "auto" is bf16 where the CPU has AMX, else f32. threads: 0 leaves the number to OpenVINO.
        Raises ModelMissing when the model is not one of these or its files are not whole.
        """
        self.name = folder.name
        self.dim = int(folder.config["hidden_size"])
        self.max_tokens = folder.max_tokens
        self.precision = resolve_precision(precision)
        self.runtime = f"openvino {self.precision}"
        self.tokenizer = ModelTokenizer(folder)
        self._pad_id = int(folder.config.get("pad_token_id") or 0)
        self._tokens_per_call = tokens_per_call
        self._request = _compile(folder, self.precision, threads)
        self.fingerprint = fingerprint(folder, self.dim)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See Embedder."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        token_ids = self.tokenizer.ids(texts)
        longest_first = sorted(range(len(texts)), key=lambda index: -len(token_ids[index]))
        for run, length in _runs(longest_first, [len(ids) for ids in token_ids], self._tokens_per_call):
            vectors[run] = self._run([token_ids[index] for index in run], length)
        vectors = unit_rows(vectors)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if broken.size:
            raise UnembeddableText("the model gives no finite vector for the text", int(broken[0]))
        return vectors

    def _run(self, token_ids: list[list[int]], length: int) -> NDArray[np.float32]:
        """One call of the model, padded to `length`; shape (len(token_ids), dim), valid until the next call."""
        ids = np.full((len(token_ids), length), self._pad_id, dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=np.bool_)
        for row, values in enumerate(token_ids):
            ids[row, : len(values)] = values
            mask[row, : len(values)] = True
        try:
            self._request.infer([ids, mask], share_inputs=True)
        except RuntimeError as error:
            raise EmbedderUnavailable(f"OpenVINO failed on {ids.shape[0]} x {length} tokens: {error}") from error
        output: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return output


def resolve_precision(precision: Precision) -> Literal["f32", "bf16"]:
    """The precision to compute in. "auto" is bf16 only with AMX: without it bf16 runs at 0.6 times the rate of f32."""
    if precision == "auto":
        return "bf16" if has_amx() else "f32"
    return precision


def has_amx() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (flag amx_bf16); False where /proc is not Linux's."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "amx_bf16" in flags.split()


def _compile(folder: ModelFolder, precision: str, threads: int) -> Any:
    # `import openvino` would start a telemetry thread and fork a process, which is neither wanted nor safe beside
    # librdkafka's threads. With None in its place the import of the telemetry package fails, and openvino goes on.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        from openvino import Core
    except ImportError as error:
        raise ModelMissing(f"the openvino runtime does not import ({error}): `pip install openvino`") from error

    # The hint is always set: by default OpenVINO takes bf16 wherever the CPU knows the type, slow or not.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        # With pinning, two processes of one thread each land on the same core.
        options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    model = build_encoder(folder)
    try:
        return Core().compile_model(model, "CPU", options).create_infer_request()
    except RuntimeError as error:
        raise ModelMissing(f"OpenVINO cannot compile {folder.name} as {precision}: {error}") from error


def _runs(order: list[int], lengths: list[int], budget: int) -> Iterator[tuple[list[int], int]]:
    """Cut `order` (longest first) into runs of at most `budget` padded tokens; yields (indices, padded length).

    A run ends as well where the texts become much shorter: a batch of a few texts would be half padding.
    """
    start = 0
    while start < len(order):
        length = _padded(lengths[order[start]])
        shortest = length - max(_LENGTH_STEP, length * _MOST_PADDING_RATIO)
        end = min(len(order), start + max(1, budget // length))
        end = next((at for at in range(start + 1, end) if _padded(lengths[order[at]]) < shortest), end)
        yield order[start:end], length
        start = end


def _padded(length: int) -> int:
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP
