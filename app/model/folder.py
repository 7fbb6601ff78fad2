"""A sentence-transformers model folder: what its configuration files say."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from schemas.errors import ModelMissing

_UNSET_LENGTH = 100_000  # tokenizer_config.json of models without a limit holds 1e30
_DEFAULT_MAX_TOKENS = 512


class ModelFolder:
    """One model on disk. Reads files when asked, keeps what it read; changes nothing.

    path: the folder. name: what the model is called in fingerprints: the last part of the name it was asked for by.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        tail = name.rstrip("/").rpartition("/")[2]
        self.name = tail if tail.strip(".~") else path.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json. Raises ModelMissing where there is none."""
        found = self._json("config.json")
        if not isinstance(found, dict):
            raise ModelMissing(f"{self.path} is no model: it has no readable config.json")
        return found

    @cached_property
    def modules(self) -> list[str]:
        """Class names of the sentence-transformers modules in order, such as Transformer, Pooling, Normalize."""
        found = self._json("modules.json")
        if not isinstance(found, list):
            return ["Transformer", "Pooling"]  # what sentence-transformers assumes of a plain transformers model
        return [str(module["type"]).rpartition(".")[2] for module in found]

    @cached_property
    def pooling(self) -> str:
        """How token vectors become one: "mean", "cls", or other names of sentence-transformers joined by "+"."""
        found = self._json("1_Pooling/config.json")
        if not isinstance(found, dict):
            return "mean"
        if "pooling_mode" in found:
            mode = found["pooling_mode"]
            return mode if isinstance(mode, str) else "+".join(mode)
        active = [key for key, value in found.items() if key.startswith("pooling_mode_") and value is True]
        names = [key.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens") for key in active]
        return "+".join(names) or "mean"

    @cached_property
    def sentence_config(self) -> dict[str, Any]:
        """sentence_bert_config.json, empty where there is none."""
        found = self._json("sentence_bert_config.json")
        return found if isinstance(found, dict) else {}

    @cached_property
    def prompted(self) -> bool:
        """Whether sentence-transformers would put a prompt before every text unasked."""
        return bool(self._library_config.get("default_prompt_name"))

    @cached_property
    def truncate_dim(self) -> int | None:
        """To how many dimensions sentence-transformers would cut every vector unasked; None: it does not."""
        return self._library_config.get("truncate_dim")

    @cached_property
    def _library_config(self) -> dict[str, Any]:
        found = self._json("config_sentence_transformers.json")
        return found if isinstance(found, dict) else {}

    @cached_property
    def max_tokens(self) -> int:
        """Longest input, special tokens included: what the model was trained with, else what it can take."""
        tokenizer = self._json("tokenizer_config.json")
        tokenizer_limit = tokenizer.get("model_max_length") if isinstance(tokenizer, dict) else None
        limits = [self.sentence_config.get("max_seq_length"), tokenizer_limit]
        given = [int(limit) for limit in limits if limit and limit < _UNSET_LENGTH]
        positions = int(self.config.get("max_position_embeddings") or _DEFAULT_MAX_TOKENS)
        return min(given[0], positions) if given else positions

    @cached_property
    def weights(self) -> list[Path]:
        """Weight files of all modules, by path: safetensors, else PyTorch's. Raises ModelMissing if there are none."""
        for pattern in ("*.safetensors", "*.bin"):
            found = [path for path in self.path.rglob(pattern) if not _is_export(path.relative_to(self.path))]
            if found:
                return sorted(found)
        raise ModelMissing(f"{self.path} has no weights: neither *.safetensors nor *.bin")

    def _json(self, relative: str) -> Any:
        path = self.path / relative
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise ModelMissing(f"{path} is not JSON: {error}") from error


def _is_export(relative: Path) -> bool:
    """Copies of the model for other runtimes lie in folders of their names."""
    return relative.parts[0] in {"onnx", "openvino"}
