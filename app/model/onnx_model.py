"""A sentence encoder on ONNX Runtime, on the CPU, without torch."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import CPU_BATCH_BYTES
from app.model.token_model import Mask, TokenIds
from schemas.errors import ModelMissing, TextsRefused

# Of the same core's time a token takes 225 us with 512 tokens a call, 231 with 256, 249 with 1,024, 260 with 2,048.
_TOKENS_PER_THREAD = 256
_MOST_TOKENS_PER_CALL = 4096
_NO_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate", "out of memory")
_ERRORS_ONLY = 3  # onnxruntime's log level


class OnnxModel:
    """TokenModel (see there) of an ONNX file with the inputs ids (int32) and mask (boolean) and the output vectors.

    Computes in f32. One call at a time on all cores: two beside each other on a core each gain a tenth on 2 cores, but
    would need the weights in memory a second time for the call that is alone.
    """

    lanes = 1
    length_step = 1  # a new shape costs nothing
    batch_bytes = CPU_BATCH_BYTES
    runtime = "onnx f32"

    def __init__(self, file: Path, threads: int = 0) -> None:
        """Load and optimise what `headrace model prepare` exported, 0.3 s. threads: 0 for all cores.

        Raises ModelMissing when onnxruntime is not installed or cannot read the file.
        """
        threads = threads or _cores()
        self.tokens_per_call = min(_MOST_TOKENS_PER_CALL, _TOKENS_PER_THREAD * threads)
        self._session = _session(file, threads)
        dim = self._session.get_outputs()[0].shape[-1]
        if not isinstance(dim, int):
            raise ModelMissing(f"{file} does not say how long its vectors are; `headrace model prepare` makes it anew")
        self.dim = dim

    def vectors(self, ids: TokenIds, mask: Mask, lane: int | None = None) -> NDArray[np.float32]:
        """See TokenModel."""
        del lane
        try:
            found: NDArray[np.float32] = self._session.run(["vectors"], {"ids": ids, "mask": mask})[0]
        except Exception as error:  # onnxruntime has a dozen classes, all of Exception itself
            what = f"{ids.shape[0]} x {ids.shape[1]} tokens"
            if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _NO_MEMORY):
                raise MemoryError(f"ONNX Runtime has no memory for {what}") from error
            raise TextsRefused(f"ONNX Runtime failed on {what}: {error}") from error
        return found


def _cores() -> int:
    """Those that this process may use; onnxruntime would take all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _session(file: Path, threads: int) -> Any:
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError as error:
        raise ModelMissing(
            f"the onnx runtime does not import ({error}): `pip install headrace[onnx]`, or use another runtime "
            "(HEADRACE_RUNTIME=auto)"
        ) from error
    # The rest as it is by default, measured: without the memory arena 25 % fewer documents/s; without waiting threads
    # that spin, 5 to 15 % fewer; the pattern of memory of each shape makes no difference.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # see above
        raise ModelMissing(
            f"ONNX Runtime cannot load {file}: {error}; `headrace model prepare` makes it anew"
        ) from error
