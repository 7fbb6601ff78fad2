"""ONNX Runtime gives the vectors of the reference, and says what went wrong in the terms of TokenModel."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.model.agreement import agreement_of
from app.model.export import export_onnx
from app.model.onnx_model import OnnxModel
from schemas.errors import ModelMissing, TextsRefused
from tests.services import need
from tests.unit.model.small_models import default_program, default_sample

pytestmark = [pytest.mark.model, pytest.mark.reference]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("sentence_transformers", "torch", "onnxscript", "onnxruntime"):
        need(find_spec(package) is not None, f"{package} is not installed: `pip install headrace[onnx-export]`")
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(default_sample().folder, file, default_program())
    return file


def test_the_default_model_gives_the_vectors_of_the_reference(file: Path) -> None:
    sample, model = default_sample(), OnnxModel(file)
    found = agreement_of(sample.by(model.vectors), sample.wanted)
    assert found.cosine_min >= 0.9999
    assert found.top10_overlap >= 0.999
    assert model.dim == 384


def test_vectors_are_the_callers_to_keep(file: Path) -> None:
    model = OnnxModel(file, threads=1)
    first = model.vectors(*batch(3))
    kept = first.copy()
    model.vectors(*batch(4))
    assert (first == kept).all()
    assert first.dtype == np.float32


def test_tokens_per_call_follow_the_threads(file: Path) -> None:
    assert OnnxModel(file, threads=1).tokens_per_call < OnnxModel(file, threads=2).tokens_per_call


def test_tokens_that_the_model_does_not_have_are_refused(file: Path) -> None:
    with pytest.raises(TextsRefused, match="2 x 3 tokens"):
        OnnxModel(file, threads=1).vectors(np.full((2, 3), 10**6, np.int32), np.ones((2, 3), np.bool_))


@pytest.mark.parametrize("message", ["std::bad_alloc", "Failed to allocate memory for requested buffer of size 1"])
def test_no_memory_is_told_apart_from_a_refusal(file: Path, message: str) -> None:
    model = OnnxModel(file, threads=1)

    def run(*_: Any) -> None:
        raise RuntimeError(message)

    model._session = SimpleNamespace(run=run)
    with pytest.raises(MemoryError, match="1 x 3 tokens"):
        model.vectors(*batch(3))


def test_a_file_that_is_no_model_is_told_with_what_makes_it_anew(tmp_path: Path) -> None:
    need(find_spec("onnxruntime") is not None, "onnxruntime is not installed: `pip install headrace[onnx]`")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelMissing, match="`headrace model prepare` makes it anew"):
        OnnxModel(tmp_path / "model.onnx")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelMissing, match=r"`pip install headrace\[onnx\]`"):
        OnnxModel(tmp_path / "model.onnx")


def batch(length: int) -> tuple[Any, Any]:
    return np.full((1, length), 2000, np.int32), np.ones((1, length), np.bool_)
