"""Whose tokens measure the chunks for a model that is behind HTTP."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from app.model.folder import ModelFolder
from app.model.server.approximate_tokens import ApproximateTokenizer
from app.model.source import DEFAULT_MODEL, find_model
from app.model.tokens import ModelTokenizer, Tokenizer
from app.settings import Settings
from schemas.errors import ModelMissing

_FILES = ["tokenizer.json", "tokenizer_config.json", "config.json", "sentence_bert_config.json"]


def server_tokenizer(settings: Settings) -> Tokenizer:
    """The tokenizer that `embeddings_tokenizer` names, else an approximation with `max_chunk_tokens` as its limit.

    A hub name is downloaded once, without weights. Raises ModelMissing, one line that says what to do.
    """
    name = settings.embeddings_tokenizer
    if name is None:
        return ApproximateTokenizer(settings.max_chunk_tokens)
    return ModelTokenizer(_TokenizerFolder(_find(name), name, settings.max_chunk_tokens))


class _TokenizerFolder(ModelFolder):
    """A folder of which only tokenizer.json has to be there; without a configuration the limit is `max_tokens`."""

    def __init__(self, path: Path, name: str, max_tokens: int) -> None:
        super().__init__(path, name)
        self._given_max_tokens = max_tokens

    @cached_property
    def max_tokens(self) -> int:
        known = (self.path / "config.json").is_file()
        return ModelFolder(self.path, self.name).max_tokens if known else self._given_max_tokens


def _find(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "tokenizer.json").is_file():
            raise ModelMissing(f"no tokenizer.json in {name} (HEADRACE_EMBEDDINGS_TOKENIZER)")
        return folder.resolve()
    if name.startswith(("/", ".", "~")):
        raise ModelMissing(f"the folder {name} does not exist (HEADRACE_EMBEDDINGS_TOKENIZER)")
    return find_model(name) if name == DEFAULT_MODEL else _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        path = Path(str(snapshot_download(name, allow_patterns=_FILES)))
    except Exception as error:  # the hub, HTTP and the file system each have a tree of errors of their own
        raise ModelMissing(
            f"the tokenizer of {name!r} was not found on the Hugging Face hub ({type(error).__name__}): set "
            "HEADRACE_EMBEDDINGS_TOKENIZER to a folder with a tokenizer.json, or leave it empty"
        ) from error
    if not (path / "tokenizer.json").is_file():
        raise ModelMissing(f"{name} has no tokenizer.json (HEADRACE_EMBEDDINGS_TOKENIZER): leave the setting empty")
    return path
