"""Which runtimes can run a model on this machine, the fastest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from app.model.bert_graph import build_encoder, why_not_bert
from app.model.folder import ModelFolder
from app.model.onnx_model import OnnxModel
from app.model.openvino_model import OpenVinoModel, has_amx, read_graph
from app.model.prepared import Prepared
from app.model.token_model import TokenModel
from app.model.torch_model import TorchModel, has_cuda
from app.settings import Settings
from schemas.errors import ModelMissing

FloatType = Literal["f32", "bf16"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides. torch, onnx: whether their packages are installed."""

    amx: bool
    cuda: bool
    torch: bool
    onnx: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to run the model. load: None for the reference, which is no TokenModel."""

    name: str
    load: Callable[[], TokenModel] | None


def this_machine() -> Machine:
    """Looked at without importing torch."""
    torch = find_spec("torch") is not None and find_spec("sentence_transformers") is not None
    return Machine(has_amx(), has_cuda(), torch, find_spec("onnxruntime") is not None)


def choices(
    folder: ModelFolder, prepared: Prepared, settings: Settings, machine: Machine, *, bulk: bool
) -> list[Choice]:
    """What the settings allow and this machine can do, the fastest first.

    bulk: whether many texts at a time are to be embedded; single ones are sooner done on the CPU than on a GPU.
    Raises ModelMissing when there is nothing, with what to do.
    """
    wanted, found, problems = settings.runtime, list[Choice](), list[str]()
    if wanted == "torch" or (wanted == "auto" and machine.cuda and bulk):
        found += _torch(folder, settings, machine)
    if wanted in {"auto", "openvino"}:
        found += _openvino(folder, prepared, settings, machine, problems, bulk=bulk)
    if wanted in {"auto", "onnx"}:
        found += _onnx(prepared, settings, machine, problems)
    if wanted == "reference" or (wanted == "auto" and machine.torch and settings.precision != "bf16"):
        found.append(Choice("sentence-transformers f32", None))
    if not found:
        raise ModelMissing(
            f"nothing here can run {folder.name} ({wanted}, {settings.precision}): {'; '.join(problems)}"
        )
    return found


def _precisions(settings: Settings, *, bf16: bool) -> list[FloatType]:
    """bf16: whether it is quick here."""
    if settings.precision != "auto":
        return [settings.precision]
    return ["bf16", "f32"] if bf16 else ["f32"]


def _torch(folder: ModelFolder, settings: Settings, machine: Machine) -> list[Choice]:
    device = "cuda" if machine.cuda else "cpu"

    def load(precision: FloatType) -> Callable[[], TokenModel]:
        return lambda: TorchModel(folder, precision, settings.model_threads, device)

    precisions = _precisions(settings, bf16=machine.amx or machine.cuda)
    return [Choice(f"torch {precision} {device}", load(precision)) for precision in precisions]


def _openvino(
    folder: ModelFolder,
    prepared: Prepared,
    settings: Settings,
    machine: Machine,
    problems: list[str],
    *,
    bulk: bool,
) -> list[Choice]:
    reason = why_not_bert(folder)
    if reason is not None and not prepared.openvino.is_file():
        problems.append(f"openvino needs an export ({reason}): run `headrace model prepare` where torch is")
        return []

    def load(precision: FloatType) -> Callable[[], TokenModel]:
        def make() -> TokenModel:
            graph = build_encoder(folder) if reason is None else read_graph(prepared.openvino)
            return OpenVinoModel(graph, precision, settings.model_threads, bulk=bulk)

        return make

    return [Choice(f"openvino {p}", load(p)) for p in _precisions(settings, bf16=machine.amx)]


def _onnx(prepared: Prepared, settings: Settings, machine: Machine, problems: list[str]) -> list[Choice]:
    if settings.precision == "bf16":
        problems.append("onnx computes in f32")
    elif not machine.onnx:
        problems.append("onnxruntime is not installed: `pip install headrace[onnx]`")
    elif not prepared.onnx.is_file():
        problems.append("onnx needs an export: run `headrace model prepare` where torch is")
    else:
        return [Choice("onnx f32", lambda: OnnxModel(prepared.onnx, settings.model_threads))]
    return []
