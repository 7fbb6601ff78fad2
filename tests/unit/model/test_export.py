"""Exports of models of many architectures give the vectors of sentence-transformers, or are refused with the reason."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.model.agreement import agreement_of
from app.model.export import export_onnx, export_openvino, traced
from app.model.folder import ModelFolder
from app.model.onnx_model import OnnxModel
from app.model.openvino_model import openvino_core
from app.model.torch_model import load_encoder
from schemas.errors import ModelMissing
from tests.services import need
from tests.unit.model.small_models import (
    KINDS,
    Sample,
    Vectors,
    default_program,
    default_sample,
    save_small_model,
    small_sample,
)

pytestmark = pytest.mark.reference
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # see app/model/openvino_model.py

Run = Callable[[Any, Any], Vectors]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    for package in ("sentence_transformers", "torch", "openvino", "onnxscript", "onnxruntime"):
        need(find_spec(package) is not None, f"{package} is not installed: `pip install headrace[onnx-export]`")


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, dict[str, Run]]:
    """A sample of each architecture, and its exports ready to run."""
    path = tmp_path_factory.mktemp(request.param)
    sample = small_sample(path, request.param)
    program = traced(sample.folder)
    export_onnx(sample.folder, path / "model.onnx", program)
    export_openvino(sample.folder, path / "openvino.xml", program)
    return sample, {"onnx": OnnxModel(path / "model.onnx").vectors, "openvino": openvino_run(path / "openvino.xml")}


@pytest.fixture(scope="module")
def traced_bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, Any]:
    sample = small_sample(tmp_path_factory.mktemp("traced"), "bert-mean")
    return sample, traced(sample.folder)


@pytest.fixture
def bert(tmp_path: Path) -> ModelFolder:
    return save_small_model(tmp_path, "bert-mean")


def openvino_run(file: Path) -> Run:
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino_core().compile_model(str(file), "CPU", options).create_infer_request()

    def run(ids: Any, mask: Any) -> Vectors:
        vectors: Vectors = request.infer({"ids": ids, "mask": mask})["vectors"].copy()
        return vectors

    return run


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_texts_of_all_lengths_in_one_padded_batch_get_the_vectors_of_sentence_transformers(
    exported: tuple[Sample, dict[str, Run]], runtime: str
) -> None:
    sample, runs = exported
    assert sample.cosines(runs[runtime]).min() > 0.9999
    others = sample.wanted @ sample.wanted.T - 2 * np.eye(len(sample.wanted))
    assert others.max() < 0.99, "the sample's own vectors are too much alike to tell anything"


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_text_alone_gets_the_same_vector(exported: tuple[Sample, dict[str, Run]], runtime: str) -> None:
    sample, runs = exported
    assert sample.alone().cosines(runs[runtime]).min() > 0.9999


@pytest.mark.model
def test_the_default_model_exported_for_openvino_agrees_with_the_reference(tmp_path: Path) -> None:
    sample = default_sample()
    export_openvino(sample.folder, tmp_path / "openvino.xml", default_program())
    found = agreement_of(sample.by(openvino_run(tmp_path / "openvino.xml")), sample.wanted)
    assert found.cosine_min >= 0.9999
    assert found.top10_overlap >= 0.999


def test_weights_too_large_for_one_onnx_file_lie_beside_it(
    tmp_path: Path, traced_bert: tuple[Sample, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, program = traced_bert
    monkeypatch.setattr("app.model.export._EMBEDDED_WEIGHT_BYTES", 0)
    export_onnx(sample.folder, tmp_path / "model.onnx", program)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert sample.cosines(OnnxModel(tmp_path / "model.onnx").vectors).min() > 0.9999


@pytest.mark.parametrize(
    ("export", "name", "saving"),
    [
        (export_onnx, "model.onnx", "torch.onnx.ONNXProgram.save"),
        (export_openvino, "openvino.xml", "openvino.save_model"),
    ],
)
def test_an_export_that_fails_says_why_and_leaves_what_was_there(
    tmp_path: Path,
    traced_bert: tuple[Sample, Any],
    monkeypatch: pytest.MonkeyPatch,
    export: Any,
    name: str,
    saving: str,
) -> None:
    sample, program = traced_bert
    (tmp_path / name).write_text("the one before")

    def half(*arguments: Any, **_: object) -> None:
        Path(str(arguments[1])).write_text("half of")
        raise RuntimeError("no space left\nand more")

    monkeypatch.setattr(saving, half)
    with pytest.raises(ModelMissing, match=r"RuntimeError: no space left\): use the reference runtime"):
        export(sample.folder, tmp_path / name, program)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "the one before"


def test_a_model_that_torch_cannot_trace_is_refused_with_the_reason(
    tmp_path: Path, bert: ModelFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import BertModel

    def forward(self: Any, input_ids: Any, **_: Any) -> Any:
        if input_ids.sum() > 10:  # what a tracer cannot follow: it depends on the data
            return {"last_hidden_state": torch.zeros(*input_ids.shape, 32)}
        return {"last_hidden_state": torch.ones(*input_ids.shape, 32)}

    monkeypatch.setattr(BertModel, "forward", forward)
    capfd.readouterr()
    with pytest.raises(ModelMissing, match=r"torch cannot export .*data-dependent.*HEADRACE_RUNTIME=reference"):
        export_onnx(bert, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("file", "entries", "reason"),
    [
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is True"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "it has a chat template"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, "it has processing_kwargs"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "it has a default prompt"),
    ],
)
def test_a_model_that_is_given_more_than_the_tokens_of_its_texts_is_refused(
    bert: ModelFolder, file: str, entries: dict[str, Any], reason: str
) -> None:
    change(bert.path / file, entries)
    with pytest.raises(ModelMissing, match=rf"only the reference runtime .*: {reason}"):
        load_encoder(ModelFolder(bert.path, "changed"), None)


def test_a_tokenizer_that_sentence_transformers_uses_in_another_way_is_refused(bert: ModelFolder) -> None:
    change(bert.path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    with pytest.raises(ModelMissing, match=r"other tokens than its tokenizer\.json says"):
        load_encoder(ModelFolder(bert.path, "changed"), None)


@pytest.mark.parametrize(
    ("package", "export", "command"),
    [
        ("onnxscript", export_onnx, r"headrace\[onnx-export\]"),
        ("openvino", export_openvino, "openvino"),
        ("sentence_transformers", export_onnx, "sentence-transformers"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_what_installs_it(
    tmp_path: Path, bert: ModelFolder, monkeypatch: pytest.MonkeyPatch, package: str, export: Any, command: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelMissing, match=rf"{package}.*`pip install {command}`"):
        export(bert, tmp_path / "model.onnx")


def change(file: Path, entries: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
