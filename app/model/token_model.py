"""What the runtimes of a local model have in common: padded token ids in, sentence vectors out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
Mask = NDArray[np.bool_]


class TokenModel(Protocol):
    """Runs a sentence encoder over one padded batch. Implemented on OpenVINO, ONNX Runtime and torch.

    runtime: for people, such as "openvino bf16". dim: length of a vector.
    lanes: how many calls may be in flight at a time, each in a thread of its own: that many are fastest in bulk.
    tokens_per_call: padded tokens of one call with which this runtime is fastest on this machine.
    length_step: texts are padded to a multiple of this many tokens; 1 where every shape costs the same.
    batch_bytes: how much text to gather for one batch: what takes about half a second.
    """

    runtime: str
    dim: int
    lanes: int
    tokens_per_call: int
    length_step: int
    batch_bytes: int

    def vectors(self, ids: TokenIds, mask: Mask, lane: int | None = None) -> NDArray[np.float32]:
        """Sentence vectors of one batch, shape (n, dim), not yet of unit length; the caller may keep them.

        ids: shape (n, length), C-contiguous. mask: the same shape, True at tokens, False at padding. lane: 0 to
        `lanes` - 1, each used by one thread at a time; None: the only call in flight, as quick as possible.
        Raises MemoryError (less at a time may do), TextsRefused (any other failure), EmbedderUnavailable (the device
        is gone).
        """
        ...
