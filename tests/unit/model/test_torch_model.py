"""Torch gives the vectors of the reference on the CPU, and on a GPU as far as a machine without one tells."""

from __future__ import annotations

import os
import platform
import sys
import weakref
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from app.model.agreement import agreement_of
from app.model.embedder import CPU_BATCH_BYTES, DEVICE_BATCH_BYTES
from app.model.torch_model import TorchModel, has_cuda, import_torch
from schemas.errors import EmbedderUnavailable, ModelMissing, TextsRefused
from tests.services import need
from tests.unit.model.small_models import KINDS, Sample, default_sample, small_sample

pytestmark = pytest.mark.reference

GIB = 2**30
TOKEN_BYTES = 30_000  # of the default model on a GPU, about


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    installed = find_spec("sentence_transformers") is not None and find_spec("torch") is not None
    need(installed, "sentence-transformers with torch is not installed: `pip install sentence-transformers`")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return small_sample(tmp_path_factory.mktemp("small"), "bert-mean")


class FakeCuda:
    """What TorchModel asks of torch.cuda, with the CPU for a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free_bytes: int = 100 * GIB) -> None:
        import torch

        self.lanes: list[object] = []
        self.emptied = 0
        self.free_bytes = free_bytes
        self.tokens = 0
        self.bf16 = True
        cuda: dict[str, Any] = {
            "is_available": lambda: True,
            "is_bf16_supported": lambda including_emulation: self.bf16 or including_emulation,
            "get_device_name": lambda device: "a GPU",
            "Stream": lambda device: object(),
            "stream": self._stream,
            "empty_cache": self._empty,
            "memory_allocated": lambda device: GIB,
            "reset_peak_memory_stats": lambda device: None,
            "max_memory_allocated": lambda device: GIB + self.tokens * TOKEN_BYTES,
            "mem_get_info": lambda device: (self.free_bytes, 200 * GIB),
        }
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: self._pinned(tensor))
        monkeypatch.setattr(TorchModel, "_place", lambda model: torch.device("cpu"))

    def _stream(self, stream: object) -> Any:
        self.lanes.append(stream)
        return nullcontext()

    def _pinned(self, tensor: Any) -> Any:
        self.tokens = tensor.numel()
        return tensor

    def _empty(self) -> None:
        self.emptied += 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_gets_the_vectors_of_sentence_transformers(tmp_path: Path, kind: str) -> None:
    sample = small_sample(tmp_path, kind)
    assert sample.cosines(TorchModel(sample.folder, "f32", device="cpu").vectors).min() > 0.9999


@pytest.mark.model
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
def test_the_default_model_gives_the_vectors_of_the_reference(
    precision: Literal["f32", "bf16"], least_cosine: float, least_overlap: float
) -> None:
    sample = default_sample()
    model = TorchModel(sample.folder, precision, device="cpu")
    found = agreement_of(sample.by(model.vectors), sample.wanted)
    assert found.cosine_min >= least_cosine
    assert found.top10_overlap >= least_overlap
    assert (model.runtime, model.dim, model.lanes) == (f"torch {precision} cpu", 384, 1)
    assert model.batch_bytes == CPU_BATCH_BYTES


def test_cuda_gives_the_vectors_of_the_reference(small: Sample) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    exact = TorchModel(small.folder, "f32")
    assert exact.runtime.startswith("torch f32 cuda (")
    assert small.cosines(exact.vectors).min() > 0.9999
    half = TorchModel(small.folder, "bf16")
    for lane in range(half.lanes):
        assert small.cosines(lambda ids, mask, lane=lane: half.vectors(ids, mask, lane)).min() > 0.999


def test_on_a_gpu_calls_are_large_and_each_lane_has_a_stream(small: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    model = TorchModel(small.folder, "bf16")
    assert model.runtime == "torch bf16 cuda (a GPU)"
    assert (model.tokens_per_call, model.length_step, model.batch_bytes) == (65_536, 8, DEVICE_BATCH_BYTES)
    cuda.lanes.clear()
    for lane in range(model.lanes):
        assert small.cosines(lambda ids, mask, lane=lane: model.vectors(ids, mask, lane)).min() > 0.999
    assert len(set(cuda.lanes)) == model.lanes == 2
    model.vectors(*small.batches[0])
    assert cuda.lanes[-1] == cuda.lanes[0]


def test_calls_fit_into_the_memory_that_is_free_on_the_gpu(small: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, free_bytes=2 * GIB)
    model = TorchModel(small.folder, "bf16", device="cuda:1")
    assert 2048 < model.tokens_per_call < 65_536
    assert model.lanes * model.tokens_per_call * TOKEN_BYTES <= 1.01 * GIB


def test_a_gpu_without_bf16_computes_in_f16(small: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch).bf16 = False
    assert TorchModel(small.folder, "bf16").runtime == "torch f16 cuda (a GPU)"
    assert TorchModel(small.folder, "f32").runtime == "torch f32 cuda (a GPU)"


def test_memory_that_a_failed_call_took_is_given_back(small: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    cuda = FakeCuda(monkeypatch)
    model = TorchModel(small.folder, "bf16")
    taken: list[weakref.ref[Any]] = []

    def forward(ids: Any, mask: Any) -> Any:
        activations = torch.zeros(1000)
        taken.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(model._encoder, "forward", forward)
    with pytest.raises(MemoryError) as caught:
        model.vectors(*small.batches[0])
    assert caught.value.__cause__ is not None, "the error holds the frames of the call that failed"
    assert taken[0]() is None, "and these still hold its tensors"
    assert cuda.emptied == 1


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried", MemoryError),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", MemoryError),
        ("CUDA error: an illegal memory access was encountered", EmbedderUnavailable),
        ("CUDA error: unspecified launch failure", EmbedderUnavailable),
        ("The expanded size of the tensor (600) must match", TextsRefused),
    ],
)
def test_failures_are_told_apart(
    small: Sample, monkeypatch: pytest.MonkeyPatch, message: str, kind: type[Exception]
) -> None:
    model = TorchModel(small.folder, "f32", device="cpu")

    def forward(ids: Any, mask: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(model._encoder, "forward", forward)
    with pytest.raises(kind, match="8 x 48 tokens"):
        model.vectors(*small.batches[0])


def test_tokens_that_the_model_does_not_have_are_refused(small: Sample) -> None:
    with pytest.raises(TextsRefused, match="1 x 3 tokens"):
        TorchModel(small.folder, "f32", device="cpu").vectors(np.full((1, 3), 10**6, np.int32), np.ones((1, 3), bool))


def test_a_device_that_is_not_there_is_named(small: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelMissing, match="'cuda:3'"):
        TorchModel(small.folder, "f32", device="cuda:3")
    assert TorchModel(small.folder, "f32").runtime == "torch f32 cpu"


def test_threads_of_torch_sleep_while_they_wait_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    import_torch()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    import_torch()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_without_torch_another_runtime_is_named(small: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelMissing, match="HEADRACE_RUNTIME=auto"):
        TorchModel(small.folder, "f32")


def test_cuda_is_looked_for_where_its_driver_and_torch_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("app.model.torch_model._CUDA_SIGNS", (tmp_path / "absent", tmp_path))
    monkeypatch.setattr("app.model.torch_model.metadata.version", lambda package: "2.15.0")
    assert has_cuda()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not has_cuda()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert has_cuda()
    monkeypatch.setattr("app.model.torch_model.metadata.version", lambda package: "2.15.0+cpu")
    assert not has_cuda()
    monkeypatch.setattr("app.model.torch_model._CUDA_SIGNS", (tmp_path / "absent",))
    assert not has_cuda()
