from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.model.bert_graph import build_encoder, why_not_bert
from app.model.folder import ModelFolder
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


def test_a_model_whose_vectors_are_cut_short_is_left_to_others(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, _BERT)
    (tmp_path / "config_sentence_transformers.json").write_text('{"truncate_dim": 4}')
    assert "truncate_dim is 4" in str(why_not_bert(folder))


def test_plain_bert_with_cls_pooling_is_covered(tmp_path: Path) -> None:
    assert why_not_bert(make_folder(tmp_path, _BERT, "cls", ("Transformer", "Pooling", "Normalize"))) is None


@pytest.mark.model
def test_damaged_weights_are_a_missing_model(tmp_path: Path, model_folder: ModelFolder) -> None:
    folder = make_folder(tmp_path, model_folder.config)
    with pytest.raises(ModelMissing, match="weights"):
        build_encoder(folder)
