"""The reference runtime: sentence-transformers itself, for any of its models, on a GPU where torch finds one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import CPU_BATCH_BYTES, unit_rows
from app.model.folder import ModelFolder
from app.model.source import fingerprint
from app.model.tokens import ModelTokenizer, check_unicode
from app.model.torch_model import import_torch, no_progress_bars
from schemas.errors import EmbedderUnavailable, ModelMissing, UnembeddableText


class ReferenceEmbedder:
    """Embedder (see there) that leaves everything to sentence-transformers, in f32."""

    def __init__(self, folder: ModelFolder, revision: str, threads: int = 0) -> None:
        """Import torch and load the model, 4 to 6 s.

        revision: see `model_revision`. threads: CPU threads of torch in the whole process; 0 leaves it to torch.
        Raises ModelMissing when sentence-transformers is not installed or cannot load the model.
        """
        self._model, device = _load(folder, threads)
        self.name = folder.name
        self.tokenizer = ModelTokenizer(folder)
        self.max_tokens = folder.max_tokens
        self.batch_bytes = CPU_BATCH_BYTES
        self._model.max_seq_length = self.max_tokens
        self.dim = int(self._encode([""]).shape[1])
        self.runtime = f"sentence-transformers f32 {device}"
        self.fingerprint = fingerprint(folder, self.dim, revision)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See Embedder."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        check_unicode(texts)
        vectors = unit_rows(self._encode(texts))
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if broken.size:
            raise UnembeddableText("the model gives no finite vector for the text", int(broken[0]))
        return vectors

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        try:
            vectors = self._model.encode(
                list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
        except RuntimeError as error:  # torch: out of memory, device lost
            raise EmbedderUnavailable(f"sentence-transformers failed on {len(texts)} texts: {error}") from error
        return np.asarray(vectors, dtype=np.float32)


def _load(folder: ModelFolder, threads: int) -> tuple[Any, str]:
    torch = import_torch()
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with no_progress_bars():
            from sentence_transformers import SentenceTransformer

            # a checkpoint in bf16 would be computed in bf16
            model = SentenceTransformer(str(folder.path), device=device, local_files_only=True).float()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelMissing(f"sentence-transformers cannot load {folder.path}: {error}") from error
    return model, device
