from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.model import source
from app.model.chunker import CHUNKER_VERSION
from app.model.folder import ModelFolder
from app.model.source import DEFAULT_MODEL, find_model, fingerprint, model_revision
from schemas.errors import ModelMissing


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # the hub reads the environment once
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


def make_model(folder: Path, **extra: str) -> ModelFolder:
    plain = {"config.json": '{"max_position_embeddings": 512}', "tokenizer.json": "{}", "model.safetensors": "weights"}
    files = {**plain, **extra}
    for relative, content in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return ModelFolder(folder, folder.name)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/no-such-model", "not a valid name at all!"])
def test_an_unknown_model_is_missing_with_one_line_that_says_what_to_do(name: str) -> None:
    with pytest.raises(ModelMissing, match="HEADRACE_MODEL") as caught:
        find_model(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_without_its_package_the_default_model_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(ModelMissing, match=r"headrace\[default-model\]"):
        find_model("all-MiniLM-L6-v2")


def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="does not exist"):
        find_model(str(tmp_path / "absent"))


def test_a_folder_is_found_where_it_is(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path.resolve()


@pytest.mark.model
def test_the_short_name_of_the_default_model_is_the_same_model(model_folder: ModelFolder) -> None:
    assert find_model("all-MiniLM-L6-v2") == find_model(DEFAULT_MODEL) == model_folder.path
    assert fingerprint(model_folder, 384, "0").startswith("all-MiniLM-L6-v2@0/384/")


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path: Path) -> None:
    original = make_model(tmp_path / "here" / "m")
    shutil.copytree(original.path, tmp_path / "there" / "m")
    copy = ModelFolder(tmp_path / "there" / "m", "someone/m")
    assert model_revision(copy) == model_revision(original)
    assert fingerprint(copy, 8, "0") == fingerprint(original, 8, "0")
    assert fingerprint(original, 8, "0").endswith(f"/8/mean/norm/float/{CHUNKER_VERSION}")


@pytest.mark.parametrize(
    "change",
    [
        {"model.safetensors": "other"},
        {"config.json": "{}"},
        {"tokenizer.json": "[]"},
        {"1_Pooling/config.json": '{"pooling_mode_cls_token": true}'},
        {"sentence_bert_config.json": '{"max_seq_length": 64}'},
        {"2_Dense/config.json": '{"activation_function": "torch.nn.Tanh"}'},
    ],
    ids=lambda change: next(iter(change)),
)
def test_anything_that_changes_vectors_changes_the_fingerprint(tmp_path: Path, change: dict[str, str]) -> None:
    plain = make_model(tmp_path / "a" / "m")
    changed = make_model(tmp_path / "b" / "m", **change)
    assert model_revision(changed) != model_revision(plain)


def test_old_and_new_pooling_configurations_mean_the_same(tmp_path: Path) -> None:
    old = make_model(tmp_path / "a", **{"1_Pooling/config.json": '{"pooling_mode_cls_token": true}'})
    new = make_model(tmp_path / "b", **{"1_Pooling/config.json": '{"pooling_mode": "cls"}'})
    assert old.pooling == new.pooling == "cls"


def test_the_longest_input_is_what_the_model_was_trained_with_else_what_it_can_take(tmp_path: Path) -> None:
    trained = make_model(tmp_path / "a", **{"sentence_bert_config.json": '{"max_seq_length": 256}'})
    unset = make_model(tmp_path / "b", **{"tokenizer_config.json": '{"model_max_length": 1e30}'})
    assert (trained.max_tokens, unset.max_tokens) == (256, 512)


def test_a_folder_without_weights_or_configuration_is_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="weights"):
        model_revision(ModelFolder(tmp_path, "m"))
    with pytest.raises(ModelMissing, match=r"config\.json"):
        _ = ModelFolder(tmp_path, "m").config
