"""What every model runtime promises: texts in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.model.tokens import Tokenizer

CPU_BATCH_BYTES = 2**16
DEVICE_BATCH_BYTES = 2**20  # a GPU or a server of models wants more at a time, and is sooner done with it


class Embedder(Protocol):
    """Turns texts into unit vectors.

    Synchronous and compute-bound: callers put it in a thread, and only one thread calls it at a time.
    The same text gives the same vector whatever else is in the call, up to rounding (cosine at least 0.9999).

    name: last part of the model's name. dim: length of a vector. max_tokens: longest input that is not truncated,
    special tokens included. fingerprint: vectors of equal fingerprints may be compared (see `fingerprint` in
    app/model/source.py). runtime: for people, such as "openvino f32". batch_bytes: how much text to gather for one
    call at most: what takes about half a second.
    """

    name: str
    dim: int
    max_tokens: int
    batch_bytes: int
    fingerprint: str
    runtime: str

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that `embed` uses."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, keeping their order.

        texts: any number, of any length; what is beyond `max_tokens` is not seen by the model.
        Returns shape (len(texts), dim), C-contiguous, every row of L2 norm 1 within 1e-3; (0, dim) for no texts.
        Raises EmbedderUnavailable (nothing was embedded: back off and call again); UnembeddableText, whose
        `position` is that of the text that can never succeed (set it aside and call again without it); or
        TextsRefused (some of the texts cannot succeed: call again with half of them).
        """


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows of shape (n, dim) to L2 norm 1; C-contiguous. A zero row stays zero, a non-finite one non-finite."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
