"""`headrace model` and `headrace bench embed`, with the real model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import orjson
import pytest

from app.cli import model as model_command
from app.cli.main import main
from app.model import survey as survey_module
from app.model.agreement import Agreement
from app.model.survey import Surveyed
from app.settings import PREFIX


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_MODEL_CACHE_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(model_command, "set_up_logs", lambda _: None)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_show_says_which_runtime_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model", "show", "--runtime", "hashing") == 0
    assert "hashing@1" in capsys.readouterr().out


@pytest.mark.model
def test_show_says_what_is_tried_in_which_order_and_whether_it_is_prepared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("model", "show", "--runtime", "openvino", "--precision", "f32") == 0
    out = capsys.readouterr().out
    assert "openvino f32" in out
    assert "headrace model prepare" in out


@pytest.mark.model
@pytest.mark.reference
def test_prepare_keeps_what_agrees_and_says_how_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model", "prepare", "--to", "openvino") == 0
    out = capsys.readouterr().out
    assert "nothing to export" in out
    assert "openvino f32" in out
    (folder,) = (tmp_path / "models").iterdir()
    facts = json.loads((folder / "prepared.json").read_bytes())
    rows = {row["runtime"]: row for row in facts["runtimes"]}
    assert rows["openvino f32"]["usable"]
    assert rows["openvino f32"]["top10_overlap"] > 0.999
    assert rows["openvino f32"]["cosine_min"] > 0.9999
    assert not rows["onnx f32"]["usable"]  # it was not exported
    assert run("model", "show", "--runtime", "openvino") == 0
    assert str(folder) in capsys.readouterr().out


@pytest.mark.model
@pytest.mark.reference
def test_prepare_deletes_an_export_that_does_not_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def survey(*_: object) -> list[Surveyed]:
        return [Surveyed("onnx", "onnx f32", "it does not agree", 1.0, Agreement(0.97, 0.99, 0.87))]

    monkeypatch.setattr(model_command, "survey", survey)
    monkeypatch.setattr(model_command, "export_onnx", lambda _, file: file.write_bytes(b"graph"))
    assert run("model", "prepare", "--to", "onnx") == 0
    assert "deleted" in capsys.readouterr().out
    assert not list(tmp_path.rglob("model.onnx"))


@pytest.mark.model
def test_bench_embed_measures_and_recommends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(survey_module, "RUNTIMES", (("openvino", "f32"), ("onnx", "f32")))
    assert run("bench", "embed", "--count", "8", "--json") == 0
    told = orjson.loads(capsys.readouterr().out)
    openvino, onnx = told["runtimes"]
    assert openvino["speed"]["texts_per_s"] > 0
    assert openvino["agreement"]["top10_overlap"] > 0.999
    assert "headrace model prepare" in onnx["problem"] or "onnxruntime" in onnx["problem"]
    assert "Fastest for documents: openvino f32" in told["advice"]


@pytest.mark.model
def test_bench_embed_takes_texts_of_your_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(survey_module, "RUNTIMES", (("openvino", "f32"),))
    (tmp_path / "texts").write_text("one text\n\nanother one\n")
    assert run("bench", "embed", "--texts", "texts") == 0
    captured = capsys.readouterr()
    assert "2 texts" in captured.err
    assert "texts/s" in captured.out


def test_texts_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "embed", "--texts", "absent") == 2
    assert "absent" in capsys.readouterr().err
    Path("empty").write_text("\n")
    assert run("bench", "embed", "--texts", "empty") == 1
    assert "no text" in capsys.readouterr().err
