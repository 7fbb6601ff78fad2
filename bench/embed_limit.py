"""What the machine can do at most: the rate of bare matrix products at the shapes of the model.

`python -m bench.embed_limit` in a process of its own; see `serve`.
"""

from __future__ import annotations

import time

from app.model.folder import ModelFolder
from app.model.openvino_model import has_amx
from app.model.source import find_model
from app.settings import load_settings
from bench.embed_worker import Commands, Facts, serve

ROWS = 4096  # tokens of one call: enough for the peak, and no more than a call of the model may have
_RUNS, _WARM_UPS = 30, 5


def gemm_peaks() -> Facts:
    """FLOP/s of torch's matrix products, the best of some runs: by precision, then by shape (rows x in x out).

    bf16 only where the CPU has AMX; all cores. The result is written to memory that is there already.
    """
    config = ModelFolder(find_model(load_settings().model), "").config
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    shapes = ((hidden, hidden), (hidden, inner), (inner, hidden))
    precisions = ("f32", "bf16") if has_amx() else ("f32",)
    return {
        precision: {f"{ROWS} x {into} x {out}": _peak(precision, into, out) for into, out in shapes}
        for precision in precisions
    }


def _peak(precision: str, into: int, out: int) -> float:
    import torch

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = torch.randn(ROWS, into).to(dtype), torch.randn(into, out).to(dtype)
    product = torch.empty(ROWS, out, dtype=dtype)
    took_s = []
    for _ in range(_WARM_UPS + _RUNS):
        began = time.perf_counter()
        torch.mm(left, right, out=product)
        took_s.append(time.perf_counter() - began)
    return 2.0 * ROWS * into * out / min(took_s[_WARM_UPS:])


def _made() -> tuple[Facts, Commands]:
    import torch

    return {"threads": torch.get_num_threads()}, {"gemm": gemm_peaks}


if __name__ == "__main__":
    serve(_made)
