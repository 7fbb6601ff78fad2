"""The graph of a BERT sentence encoder, built from its configuration and weights with OpenVINO operations.

Source: Devlin et al., BERT (2018), as `BertModel` of transformers computes it; pooling as sentence-transformers does.
Building takes 0.1 to 0.3 s and needs neither torch nor an exported copy of the model. It agrees with
sentence-transformers to 2e-7 in f32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.model.folder import ModelFolder
from app.model.openvino_model import import_openvino
from schemas.errors import ModelMissing

_PREFIX = "bert."  # some checkpoints hold the encoder as a part of a larger model


def why_not_bert(folder: ModelFolder) -> str | None:
    """What this graph cannot do of the model in `folder`; None if it can do everything."""
    config = folder.config
    wanted = {
        "model_type": ("bert", config.get("model_type")),
        "hidden_act": ("gelu", config.get("hidden_act")),
        "position_embedding_type": ("absolute", config.get("position_embedding_type", "absolute")),
        "is_decoder": (False, config.get("is_decoder", False)),
        "do_lower_case": (False, folder.sentence_config.get("do_lower_case", False)),
        "default prompt": (False, folder.prompted),
        "truncate_dim": (None, folder.truncate_dim),
    }
    wrong = [f"{name} is {found!r}" for name, (right, found) in wanted.items() if found != right]
    if folder.pooling not in {"mean", "cls"}:
        wrong.append(f"pooling is {folder.pooling}")
    wrong += [f"it has a {module} module" for module in folder.modules if module not in _MODULES]
    if not all(path.suffix == ".safetensors" for path in folder.weights):
        wrong.append("its weights are not safetensors")
    return ", ".join(wrong) or None


_MODULES = {"Transformer", "Pooling", "Normalize"}


def build_encoder(folder: ModelFolder) -> Any:
    """An openvino.Model from token ids to sentence vectors, not yet of unit length.

    Inputs: "ids" int32 (batch, length), "mask" boolean of the same shape, True at tokens, False at padding; both
    dimensions dynamic. Output: float32 (batch, hidden_size).
    Raises ModelMissing for other architectures (see `why_not_bert`) and for weights that do not fit the configuration.
    """
    reason = why_not_bert(folder)
    if reason is not None:
        raise ModelMissing(f"the openvino runtime cannot run {folder.name}: {reason}; use the reference runtime")
    try:
        return _Encoder(folder.config, _load_weights(folder)).model(folder.pooling)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise ModelMissing(f"the weights in {folder.path} do not make the model of its config.json: {error}") from error


def _load_weights(folder: ModelFolder) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    tensors: dict[str, NDArray[np.float32]] = {}
    for path in folder.weights:
        try:
            stored = load_file(path)
        except SafetensorError as error:
            raise ModelMissing(f"the weights in {path} are damaged: {error}") from error
        for name, tensor in stored.items():
            if np.issubdtype(tensor.dtype, np.floating):
                tensors[name.removeprefix(_PREFIX)] = tensor.astype(np.float32, copy=False)
    return tensors


class _Encoder:
    """Builds the graph layer by layer; `weights` are looked up under the names of `BertModel`."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, NDArray[np.float32]]) -> None:
        self._op: Any = import_openvino().opset15
        self._weights = weights
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._hidden = int(config["hidden_size"])
        self._epsilon = float(config["layer_norm_eps"])

    def model(self, pooling: str) -> Any:
        op = self._op
        ids = op.parameter([-1, -1], np.int32, name="ids")
        mask = op.parameter([-1, -1], np.bool_, name="mask")
        # A boolean mask: an additive -1e9 would be computed in bf16 and cost accuracy (top-10 overlap .990, not .997).
        attended = op.unsqueeze(mask, self._ints(1, 2))
        states = self._embeddings(ids)
        for layer in range(self._layers):
            states = self._layer(states, attended, f"encoder.layer.{layer}.")
        pooled = self._mean(states, mask) if pooling == "mean" else self._first(states)
        return import_openvino().Model([pooled], [ids, mask], "bert_sentence_encoder")

    def _embeddings(self, ids: Any) -> Any:
        op = self._op
        # Every token is of type 0, so that its embedding is added to the positions' once and for all.
        types = self._weights["embeddings.token_type_embeddings.weight"]
        positions = self._weights["embeddings.position_embeddings.weight"] + types[0]
        length = op.gather(op.shape_of(ids, "i32"), self._ints(1), self._ints(0))
        used = op.slice(op.constant(positions), self._ints(0), length, self._ints(1), self._ints(0))
        words = op.gather(op.constant(self._weights["embeddings.word_embeddings.weight"]), ids, self._ints(0))
        return self._norm(op.add(words, used), "embeddings.LayerNorm")

    def _layer(self, states: Any, attended: Any, prefix: str) -> Any:
        op = self._op
        query, key, value = (
            self._split_heads(self._dense(states, f"{prefix}attention.self.{part}"))
            for part in ("query", "key", "value")
        )
        context = op.scaled_dot_product_attention(query, key, value, attended)
        merged = op.reshape(op.transpose(context, self._ints(0, 2, 1, 3)), self._ints(0, 0, self._hidden), True)
        attention = self._dense(merged, f"{prefix}attention.output.dense")
        states = self._norm(op.add(attention, states), f"{prefix}attention.output.LayerNorm")
        inner = op.gelu(self._dense(states, f"{prefix}intermediate.dense"), "erf")
        output = self._dense(inner, f"{prefix}output.dense")
        return self._norm(op.add(output, states), f"{prefix}output.LayerNorm")

    def _split_heads(self, states: Any) -> Any:
        op = self._op
        shape = self._ints(0, 0, self._heads, self._hidden // self._heads)
        return op.transpose(op.reshape(states, shape, True), self._ints(0, 2, 1, 3))

    def _dense(self, states: Any, name: str) -> Any:
        op = self._op
        product = op.matmul(states, op.constant(self._weights[f"{name}.weight"]), False, True)
        return op.add(product, op.constant(self._weights[f"{name}.bias"]))

    def _norm(self, states: Any, name: str) -> Any:
        op = self._op
        scaled = op.mvn(states, self._ints(-1), True, self._epsilon, "inside_sqrt")
        product = op.multiply(scaled, op.constant(self._weights[f"{name}.weight"]))
        return op.add(product, op.constant(self._weights[f"{name}.bias"]))

    def _mean(self, states: Any, mask: Any) -> Any:
        op = self._op
        weight = op.convert(op.unsqueeze(mask, self._ints(2)), "f32")
        total = op.reduce_sum(op.multiply(states, weight), self._ints(1), False)
        return op.divide(total, op.reduce_sum(weight, self._ints(1), False))

    def _first(self, states: Any) -> Any:
        return self._op.gather(states, self._op.constant(0, np.int32), self._ints(1))

    def _ints(self, *values: int) -> Any:
        return self._op.constant(list(values), np.int32)
