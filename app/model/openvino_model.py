"""A sentence encoder on OpenVINO, on the CPU, without torch."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import CPU_BATCH_BYTES
from app.model.token_model import Mask, TokenIds
from schemas.errors import ModelMissing, TextsRefused

# With AMX 340 documents/s; 1,024 gives 315, 8,192 gives 301 and holds up what waits for 0.3 s
_TOKENS_PER_CALL = 2048
_LENGTH_STEP = 16  # each new shape costs time at first use: a step of 1 gives 332 documents/s, 16 398, 32 354
_BYTES_PER_LANE = 2**15
_NO_MEMORY = ("bad_alloc", "allocate", "out of memory", "not enough memory")


class OpenVinoModel:
    """TokenModel (see there) of an OpenVINO graph with the inputs ids (int32) and mask (boolean).

    The graph is compiled twice where there are several cores: for one call at a time on all cores, and for several
    calls beside each other on a part of the cores each (with 2 cores and AMX: 2.2 against 3.1 ms for a short text,
    and 597 against 650 documents/s in bulk).
    """

    def __init__(self, graph: Any, precision: Literal["f32", "bf16"], threads: int = 0, *, bulk: bool = True) -> None:
        """Compile `graph`, 0.15 s, and 0.1 s more if `bulk`: whether many texts at a time are to be embedded.

        threads: 0 for all cores. Raises ModelMissing.
        """
        self.dim = int(graph.output(0).get_partial_shape()[1].get_length())
        self.runtime = f"openvino {precision}"
        self.tokens_per_call = _TOKENS_PER_CALL
        self.length_step = _LENGTH_STEP
        with ThreadPoolExecutor(1, thread_name_prefix="compile") as beside:
            compiling = beside.submit(_compile, graph, precision, threads, "THROUGHPUT") if bulk else None
            quick = _compile(graph, precision, threads, "LATENCY")
        self._quick = quick.create_infer_request()
        several = compiling is not None and int(quick.get_property("INFERENCE_NUM_THREADS")) > 1
        wide = compiling.result() if compiling is not None and several else quick
        self.lanes = int(wide.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) if several else 1
        self._requests = [wide.create_infer_request() for _ in range(self.lanes)]
        self.batch_bytes = max(CPU_BATCH_BYTES, _BYTES_PER_LANE * self.lanes)

    def vectors(self, ids: TokenIds, mask: Mask, lane: int | None = None) -> NDArray[np.float32]:
        """See TokenModel."""
        request = self._quick if lane is None else self._requests[lane]
        try:
            request.infer([ids, mask], share_inputs=True)
        except RuntimeError as error:
            if any(text in str(error) for text in _NO_MEMORY):
                raise MemoryError(f"OpenVINO has no memory for {ids.shape[0]} x {ids.shape[1]} tokens") from error
            raise TextsRefused(f"OpenVINO failed on {ids.shape[0]} x {ids.shape[1]} tokens: {error}") from error
        output: NDArray[np.float32] = request.get_output_tensor(0).data.copy()  # the next call writes over it
        return output


def read_graph(file: Path) -> Any:
    """A graph that `headrace model prepare` exported. Raises ModelMissing."""
    try:
        return openvino_core().read_model(str(file))
    except RuntimeError as error:
        raise ModelMissing(f"OpenVINO cannot read {file}: {error}; `headrace model prepare` makes it anew") from error


@cache
def openvino_core() -> Any:
    """The one Core of this process, kept for good. Raises ModelMissing.

    On a CPU with AMX a Core gives the thread that makes it another stack for signals. When one ends that was not the
    last to be made, a stack is left that is unmapped, and the next signal ends the process (segmentation fault).
    """
    return import_openvino().Core()


def has_amx() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (flag amx_bf16); False where /proc is not Linux's.

    With AMX bf16 is 3.5 times as fast as f32, without it 0.6 times.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "amx_bf16" in flags.split()


def _compile(graph: Any, precision: str, threads: int, hint: str) -> Any:
    # The precision is always set: by default OpenVINO takes bf16 wherever the CPU knows the type, slow or not.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": hint}
    if threads:
        # With pinning, two processes of one thread each land on the same core.
        options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    try:
        return openvino_core().compile_model(graph, "CPU", options)
    except RuntimeError as error:
        raise ModelMissing(f"OpenVINO cannot compile the model as {precision}: {error}") from error


def import_openvino() -> Any:
    """The openvino package. Raises ModelMissing."""
    # `import openvino` would start a telemetry thread and fork a process, which is neither wanted nor safe beside
    # librdkafka's threads. With None in its place the import of the telemetry package fails, and openvino goes on.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ModelMissing(f"the openvino runtime does not import ({error}): `pip install openvino`") from error
    return openvino
