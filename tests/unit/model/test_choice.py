"""Which runtimes are tried, in which order, on which machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.model.choice import Machine, choices
from app.model.folder import ModelFolder
from app.model.openvino_model import has_amx
from app.model.prepared import Prepared
from app.settings import Settings
from schemas.errors import ModelMissing

BERT = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": 8}
PLAIN = Machine(amx=False, cuda=False, torch=False, onnx=False)
EVERYTHING = Machine(amx=True, cuda=True, torch=True, onnx=True)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def names(
        machine: Machine,
        *,
        config: dict[str, Any] = BERT,
        exports: tuple[str, ...] = (),
        bulk: bool = True,
        **settings: Any,
    ) -> list[str]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(b"")
        prepared = Prepared(tmp_path / "cache", "m", lambda: "0")
        prepared.folder.mkdir(parents=True, exist_ok=True)
        for export in exports:
            (prepared.folder / export).write_bytes(b"")
        folder = ModelFolder(tmp_path, "m")
        found = choices(folder, prepared, Settings(_env_file=None, **settings), machine, bulk=bulk)
        return [choice.name for choice in found]

    return names


def test_a_cpu_without_amx_computes_in_f32(make: Any) -> None:
    assert make(PLAIN) == ["openvino f32"]


def test_a_cpu_with_amx_computes_in_bf16_and_falls_back_to_f32(make: Any) -> None:
    assert make(Machine(amx=True, cuda=False, torch=False, onnx=False)) == ["openvino bf16", "openvino f32"]


def test_the_reference_comes_last_where_torch_is(make: Any) -> None:
    assert make(Machine(amx=False, cuda=False, torch=True, onnx=False))[-1] == "sentence-transformers f32"


def test_a_gpu_comes_first_for_many_texts_and_not_at_all_for_single_ones(make: Any) -> None:
    assert make(EVERYTHING)[0] == "torch bf16 cuda"
    assert "torch bf16 cuda" not in make(EVERYTHING, bulk=False)


def test_another_architecture_needs_an_export_and_the_message_says_which_command_makes_it(make: Any) -> None:
    mpnet = {**BERT, "model_type": "mpnet"}
    with pytest.raises(ModelMissing, match="headrace model prepare"):
        make(PLAIN, config=mpnet)
    assert make(PLAIN, config=mpnet, exports=("openvino.xml",)) == ["openvino f32"]


def test_onnx_needs_its_package_and_an_export(make: Any) -> None:
    with_package = Machine(amx=False, cuda=False, torch=False, onnx=True)
    assert "onnx f32" in make(with_package, exports=("model.onnx",))
    with pytest.raises(ModelMissing, match="onnxruntime"):
        make(PLAIN, exports=("model.onnx",), runtime="onnx")


def test_without_an_export_onnx_says_which_command_makes_it(make: Any) -> None:
    with pytest.raises(ModelMissing, match="headrace model prepare"):
        make(Machine(amx=False, cuda=False, torch=False, onnx=True), runtime="onnx")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"precision": "f32"}, ["openvino f32"]),
        ({"precision": "bf16"}, ["openvino bf16"]),
        ({"runtime": "openvino", "precision": "bf16"}, ["openvino bf16"]),
    ],
)
def test_what_is_asked_for_is_all_there_is(make: Any, settings: dict[str, str], wanted: list[str]) -> None:
    assert make(PLAIN, **settings) == wanted


def test_bf16_is_never_the_reference(make: Any) -> None:
    assert make(EVERYTHING, runtime="openvino", precision="bf16") == ["openvino bf16"]
    assert "sentence-transformers f32" not in make(EVERYTHING, precision="bf16")


def test_amx_is_what_the_kernel_says() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert has_amx() == (" amx_bf16" in flags)
