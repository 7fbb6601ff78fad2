"""Exports a sentence encoder of any architecture from torch to the files that the other runtimes read.

Both exports come from one `torch.export` program: unlike a traced module it cannot silently keep the batch size, the
length, or the absence of padding of the example that it was made from.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from app.model.folder import ModelFolder
from app.model.torch_model import import_torch, load_encoder
from schemas.errors import ModelMissing

# 23 has Attention as one operation, which needs onnxruntime 1.23: 225 us a token, 265 with 20, which has Gelu.
_OPSET = 23
_EMBEDDED_WEIGHT_BYTES = 2**30  # an ONNX file is one protobuf message, at most 2 GiB; larger weights lie beside it
_EXAMPLE_SHAPE = (2, 12)
_PADDING = 5  # of the example's second text
_REFERENCE = "use the reference runtime (HEADRACE_RUNTIME=reference)"


def export_openvino(folder: ModelFolder, file: Path, program: Any = None) -> None:
    """Write an OpenVINO graph to `file` (*.xml) and its weights beside it (*.bin), in f32; takes some seconds.

    Inputs: "ids" int32 (batch, length), "mask" boolean of the same shape, True at tokens; both dimensions dynamic.
    Output: "vectors" float32 (batch, dim), not yet of unit length. Replaces what was there, the .xml last.
    program: what `traced` gave of this model, where both exports are wanted.
    Raises ModelMissing when the model cannot be exported or a package is missing; OSError.
    """
    openvino = _package("openvino", "openvino")
    program = program or traced(folder)
    with _quiet(), _fresh(file) as fresh:
        try:
            graph = openvino.convert_model(program)
            graph.output(0).get_tensor().set_names({"vectors"})
            _let_every_token_attend(graph)
            openvino.save_model(graph, str(fresh), compress_to_fp16=False)
        except Exception as error:  # each operation's converter raises its own
            raise _no_export(folder, "OpenVINO", error) from error


def export_onnx(folder: ModelFolder, file: Path, program: Any = None) -> None:
    """Write an ONNX model to `file`, in f32, of the same inputs and output as `export_openvino`; takes 3 to 10 s.

    The weights are in the file, those of more than 1 GiB in another one beside it (`file`.data).
    program, and what it raises: see `export_openvino`.
    """
    _package("onnxscript", "headrace[onnx-export]")
    program = program or traced(folder)
    with _quiet(), _fresh(file) as fresh:
        try:
            exported = _onnx(program, optimize=True)
            if any(node.op_type == "RotaryEmbedding" for node in exported.model.graph):
                # The optimiser joins several operations into this one, which onnxruntime 1.31 then refuses for every
                # batch but one. Without the optimiser a BERT would take 5 to 10 % longer.
                exported = _onnx(program, optimize=False)
            weight_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
            exported.save(str(fresh), external_data=weight_bytes > _EMBEDDED_WEIGHT_BYTES)
        except Exception as error:  # each operation's converter raises its own
            raise _no_export(folder, "ONNX", error) from error


def traced(folder: ModelFolder) -> Any:
    """The model as a torch.export.ExportedProgram with dynamic batch and length, in f32. Raises ModelMissing."""
    torch = import_torch()
    encoder = load_encoder(folder, torch.float32)
    ids = torch.full(_EXAMPLE_SHAPE, int(folder.config.get("pad_token_id") or 0), dtype=torch.int32)
    mask = torch.ones(_EXAMPLE_SHAPE, dtype=torch.bool)
    mask[1, -_PADDING:] = False
    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=folder.max_tokens)}
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(encoder, (ids, mask), dynamic_shapes=(shape, shape), strict=False)
    except Exception as error:  # the model's own code runs with symbols for tensors, and may fail in any way
        raise _no_export(folder, "torch", error) from error


def _let_every_token_attend(graph: Any) -> None:
    """Where a token may look at no other, let it look at all.

    Such tokens are padding farther from the text than a model's window (ModernBERT). Torch and ONNX make them 0,
    OpenVINO makes them NaN, which pooling would spread over the whole vector.
    """
    op = _package("openvino.opset15", "openvino")
    mended: dict[tuple[str, int], Any] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        mask = node.input_value(3)
        if mask.get_element_type().get_type_name() != "boolean":
            continue
        key = (mask.get_node().get_name(), mask.get_index())
        if key not in mended:
            some = op.reduce_logical_or(mask, op.constant([-1]), True)
            mended[key] = op.logical_or(mask, op.logical_not(some)).output(0)
        node.input(3).replace_source_output(mended[key])


def _onnx(program: Any, *, optimize: bool) -> Any:
    return import_torch().onnx.export(
        program,
        input_names=["ids", "mask"],
        output_names=["vectors"],
        opset_version=_OPSET,
        dynamo=True,
        optimize=optimize,
        verbose=False,
    )


def _no_export(folder: ModelFolder, what: str, error: Exception) -> ModelMissing:
    cause: BaseException = error
    while cause.__cause__ is not None:  # the exporters' own messages are advice for their developers
        cause = cause.__cause__
    reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return ModelMissing(f"{what} cannot export {folder.name} ({type(cause).__name__}: {reason[:300]}): {_REFERENCE}")


def _package(module: str, install: str) -> Any:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # see app/model/openvino_model.py
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelMissing(f"the export needs {module} ({error}): `pip install {install}`") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters print and warn of: other packages, their own insides, all of a graph that failed."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _fresh(file: Path) -> Iterator[Path]:
    """A path of the same name in an empty folder; what is written there goes to the folder of `file`, it itself last.

    Weights are found by the name of the file, so that cannot be another one for a while.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder:
        fresh = Path(folder) / file.name
        yield fresh
        for written in sorted(fresh.parent.iterdir(), key=lambda path: path.name == file.name):
            written.replace(file.parent / written.name)
