"""A deterministic fake of a model for tests: texts that share words are near each other. Needs no files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.model.chunker import CHUNKER_VERSION
from app.model.embedder import CPU_BATCH_BYTES, unit_rows
from app.model.tokens import check_unicode

_WORD = re.compile(r"\w+|[^\w\s]")
_SLOTS_PER_WORD = 4  # one slot a word would make one pair of words in `dim` equal; four make it one in millions


class HashingTokenizer:
    """Words and punctuation marks are the tokens; two special tokens are pretended, as BERT has."""

    special_tokens = 2
    splits_at_space = True

    def __init__(self, max_tokens: int = 256) -> None:
        self.max_tokens = max_tokens

    def spans(self, text: str) -> list[tuple[int, int]]:
        """See Tokenizer."""
        check_unicode([text])
        return [match.span() for match in _WORD.finditer(text)]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """See Tokenizer."""
        check_unicode(texts)
        return [len(_WORD.findall(text)) + self.special_tokens for text in texts]


class HashingEmbedder:
    """Bag of lower-cased words, hashed into `dim` dimensions with signs, scaled to length 1. Fulfils Embedder.

    calls: how often `embed` was called. texts: how many texts it was given in all.
    """

    def __init__(self, dim: int = 384, max_tokens: int = 256) -> None:
        self.name = "hashing"
        self.dim = dim
        self.max_tokens = max_tokens
        self.batch_bytes = CPU_BATCH_BYTES
        self.fingerprint = f"hashing@1/{dim}/bag/norm/float/{CHUNKER_VERSION}"
        self.runtime = "hashing"
        self.tokenizer = HashingTokenizer(max_tokens)
        self.calls = 0
        self.texts = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See Embedder."""
        self.calls += 1
        self.texts += len(texts)
        check_unicode(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            self._add_words(row, text)
        return unit_rows(vectors)

    def _add_words(self, row: NDArray[np.float32], text: str) -> None:
        words = _WORD.findall(text.lower())[: self.max_tokens - self.tokenizer.special_tokens]
        for word in words:
            for slot, sign in _slots(word, self.dim):
                row[slot] += sign
        if not row.any():
            row[0] = 1.0  # no words, or words that cancel out: still a unit vector


@lru_cache(maxsize=65_536)
def _slots(word: str, dim: int) -> tuple[tuple[int, float], ...]:
    numbers = np.frombuffer(hashlib.blake2b(word.encode(), digest_size=4 * _SLOTS_PER_WORD).digest(), dtype="<u4")
    return tuple((int(number >> 1) % dim, 1.0 if number & 1 else -1.0) for number in numbers)
