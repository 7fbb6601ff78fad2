"""What `headrace model prepare` keeps of a model: exports for other runtimes, and what the reference made of texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.model.agreement import START_LIMITS, Agreement, agreement_of_some
from app.model.embedder import Embedder, unit_rows

_START_TEXTS = 16
_START_CHARS = 300  # at most that long: the check is to take some hundredths of a second


def check_texts() -> list[str]:
    """About 200 different texts of one word to a page: documentation, code, several languages. Always the same."""
    texts: list[str] = json.loads((files("app.model") / "data" / "check_texts.json").read_text(encoding="utf-8"))
    return texts


def _texts_digest() -> str:
    return hashlib.sha256("\0".join(check_texts()).encode()).hexdigest()[:8]


def cache_folder(given: Path | None) -> Path:
    """The folder of all prepared models: `given`, else headrace/models in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (given or Path(home) / "headrace" / "models").expanduser()


@dataclass(frozen=True)
class Prepared:
    """One model of one revision in the cache folder; nothing of it needs to be there.

    find_revision: gives the model's revision, the same each time; asked for when it is needed.
    """

    root: Path
    name: str
    find_revision: Callable[[], str]

    @property
    def revision(self) -> str:
        """See `model_revision` in app/model/source.py."""
        return self.find_revision()

    @property
    def folder(self) -> Path:
        """Where it is, or would be."""
        return self.root / f"{self.name}-{self.revision}"

    @property
    def openvino(self) -> Path:
        """The exported OpenVINO graph, with its weights in a .bin beside it."""
        return self.folder / "openvino.xml"

    @property
    def onnx(self) -> Path:
        """The exported ONNX model."""
        return self.folder / "model.onnx"

    @property
    def vectors_file(self) -> Path:
        """What the reference makes of the check texts, which are a part of the name."""
        return self.folder / f"reference-{_texts_digest()}.npy"

    @cached_property
    def reference(self) -> NDArray[np.float32] | None:
        """Unit vectors of `check_texts` by the reference, shape (n, dim); None if nobody has prepared this model.

        Those of the default model come with the program.
        """
        packaged = Path(str(files("app.model") / "data" / f"{self.revision}-{_texts_digest()}.npy"))
        for file in (self.vectors_file, packaged):
            if file.is_file():
                return unit_rows(np.load(file, allow_pickle=False).astype(np.float32))
        return None

    def facts(self) -> dict[str, Any]:
        """What was written when it was prepared; empty if it was not."""
        try:
            found = json.loads((self.folder / "prepared.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, vectors: NDArray[np.float32], facts: dict[str, Any]) -> None:
        """Keep the reference's vectors and what is to be known of the exports. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / "new.npy"
        np.save(fresh, vectors.astype(np.float16), allow_pickle=False)
        fresh.replace(self.vectors_file)
        (self.folder / "prepared.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        self.__dict__.pop("reference", None)


def start_agreement(embedder: Embedder, reference: NDArray[np.float32]) -> Agreement:
    """Embed a few of the check texts, of all lengths, and compare. Takes some hundredths of a second."""
    texts = check_texts()
    rows = sorted((at for at, text in enumerate(texts) if len(text) <= _START_CHARS), key=lambda at: len(texts[at]))
    chosen = np.array(rows, np.intp)[np.linspace(0, len(rows) - 1, _START_TEXTS).astype(np.intp)]
    return agreement_of_some(embedder.embed([texts[at] for at in chosen]), reference, chosen)


def agrees_at_start(found: Agreement) -> bool:
    """Whether a worker may go on with this runtime."""
    return START_LIMITS.met_by(found)
