from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.model.bert_graph import why_not_bert
from app.model.folder import ModelFolder
from app.model.load import load_embedder
from app.model.openvino_bert import OpenVinoBert, _runs, has_amx, resolve_precision
from schemas.errors import ModelMissing

_BERT = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": 8}


def make_folder(
    path: Path, config: dict[str, object], pooling: str = "mean", modules: tuple[str, ...] = ()
) -> ModelFolder:
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    (path / "config.json").write_text(json.dumps(config))
    if modules:
        (path / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{m}"} for m in modules]))
    (path / "model.safetensors").write_bytes(b"")
    return ModelFolder(path, "m")


def test_runs_keep_every_text_within_the_token_budget() -> None:
    lengths = [250, 3, 40, 256, 17, 16, 5, 90]
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    runs = list(_runs(order, lengths, 512))
    assert [index for run, _ in runs for index in run] == order
    assert all(len(run) * length <= 512 and length % 16 == 0 for run, length in runs)
    assert all(lengths[index] <= length for run, length in runs for index in run)


def test_a_text_longer_than_the_budget_still_runs_alone() -> None:
    assert list(_runs([0, 1], [100, 100], 64)) == [([0], 112), ([1], 112)]


@pytest.mark.parametrize(
    ("config", "pooling", "modules", "reason"),
    [
        ({**_BERT, "model_type": "mpnet"}, "mean", (), "mpnet"),
        ({**_BERT, "hidden_act": "gelu_new"}, "mean", (), "gelu_new"),
        (_BERT, "max", (), "pooling is max"),
        (_BERT, "mean", ("Transformer", "Pooling", "Dense"), "Dense"),
    ],
)
def test_models_that_the_graph_does_not_cover_are_refused_by_name(
    tmp_path: Path, config: dict[str, object], pooling: str, modules: tuple[str, ...], reason: str
) -> None:
    folder = make_folder(tmp_path, config, pooling, modules)
    assert reason in str(why_not_bert(folder))


def test_plain_bert_with_cls_pooling_is_covered(tmp_path: Path) -> None:
    assert why_not_bert(make_folder(tmp_path, _BERT, "cls", ("Transformer", "Pooling", "Normalize"))) is None


@pytest.mark.model
def test_damaged_weights_are_a_missing_model(tmp_path: Path, model_folder: ModelFolder) -> None:
    folder = make_folder(tmp_path, model_folder.config)
    (tmp_path / "tokenizer.json").write_bytes((model_folder.path / "tokenizer.json").read_bytes())
    with pytest.raises(ModelMissing, match="weights"):
        OpenVinoBert(folder)


def test_bf16_is_chosen_only_where_the_cpu_has_amx() -> None:
    assert resolve_precision("auto") == ("bf16" if has_amx() else "f32")
    assert resolve_precision("bf16") == "bf16"


def test_the_runtime_for_tests_needs_no_files(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="headrace.model"):
        assert load_embedder("no/model", "hashing", "auto", 0).runtime == "hashing"
    assert len(caplog.records) == 1


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ModelMissing, match="int8"):
        load_embedder("no/model", "openvino", "int8", 0)
