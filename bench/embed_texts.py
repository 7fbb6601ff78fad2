"""English for the benchmark of embedding, by length: pieces of docstrings, as the product's chunker cuts them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from app.model.chunker import Chunker
from app.model.tokens import ModelTokenizer
from bench.texts import Reader
from schemas.errors import ServiceMissing

MIXED = "mixed"
TOKENS = {"short": (8, 24), "medium": (40, 90), "long": (180, 254)}
"""Fewest and most tokens of a text of each kind, special tokens included."""
SHARES = {"short": 0.3, "medium": 0.5, "long": 0.2}
"""Of the mixed texts."""
KINDS = (*TOKENS, MIXED)

_CHARS = {"short": (0, 299), "medium": (300, 899), "long": (900, 10**9)}  # of documents: each serves one kind only
_LONG_RATIO = 0.5  # a long text costs as much as many others: half as many will do
_FROM_ONE = 3  # pieces of one document
_AT_ONCE = 500
_SEED = 20

Texts = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """rounds: texts by kind, no text twice; the first round is for warming up. queries: sentences, likewise."""

    rounds: list[Texts]
    queries: list[str]

    def write(self, file: Path) -> Path:
        """For the processes that embed them."""
        file.write_bytes(orjson.dumps({"rounds": self.rounds, "queries": self.queries}))
        return file

    @classmethod
    def read(cls, file: Path) -> Sample:
        """What `write` wrote."""
        return cls(**orjson.loads(file.read_bytes()))

    def describe(self, tokenizer: ModelTokenizer) -> dict[str, dict[str, float]]:
        """By kind: texts a round, and of the measured rounds tokens in the mean, and the mean of their squares."""
        described = {}
        for kind in KINDS:
            counts = np.asarray(tokenizer.counts([text for texts in self.rounds[1:] for text in texts[kind]]), float)
            described[kind] = {
                "texts": len(self.rounds[0][kind]),
                "tokens_mean": float(counts.mean()),
                "tokens_squared_mean": float((counts**2).mean()),
                "tokens_max": float(counts.max()),
            }
        return described


def sample(rounds: int, count: int, queries: int, tokenizer: ModelTokenizer) -> Sample:
    """As many measured rounds, with one more before them for warming up.

    count: short, medium and mixed texts of a round; half as many long ones.
    Raises ServiceMissing where the installed packages have too little text.
    """
    sizes = {kind: int(count * _LONG_RATIO) if kind == "long" else count for kind in TOKENS}
    parts = {kind: round(count * share) for kind, share in SHARES.items()}
    wanted = {kind: (rounds + 1) * (sizes[kind] + parts[kind]) for kind in TOKENS}
    reader = Reader()
    sentences = reader.sentences(queries)
    pools = _pools(reader, wanted, tokenizer)
    if len(sentences) < queries or any(len(pools[kind]) < wanted[kind] for kind in TOKENS):
        raise ServiceMissing("the installed packages have too little text: take fewer rounds or texts")
    return Sample([_round(pools, sizes, parts, at) for at in range(rounds + 1)], sentences)


def _round(pools: Texts, sizes: Mapping[str, int], parts: Mapping[str, int], at: int) -> Texts:
    texts = {}
    mixed: list[str] = []
    for kind, size in sizes.items():
        both = size + parts[kind]
        own = pools[kind][at * both : (at + 1) * both]
        texts[kind] = own[:size]
        mixed += own[size:]
    random.Random(_SEED + at).shuffle(mixed)
    return {**texts, MIXED: mixed}


def _pools(reader: Reader, wanted: Mapping[str, int], tokenizer: ModelTokenizer) -> Texts:
    """Texts of each kind, up to as many as wanted."""
    chunkers = {kind: Chunker(tokenizer, most) for kind, (_, most) in TOKENS.items()}
    pools: dict[str, dict[str, None]] = {kind: {} for kind in TOKENS}
    while lacking := [kind for kind in TOKENS if len(pools[kind]) < wanted[kind]]:
        documents = reader.documents(_AT_ONCE)
        if not documents:
            break
        for kind in lacking:
            least, most = _CHARS[kind]
            texts = [document.text for document in documents if least <= len(document.text) <= most]
            pools[kind].update(dict.fromkeys(_pieces(texts, chunkers[kind], tokenizer, TOKENS[kind])))
    return {kind: list(pool)[: wanted[kind]] for kind, pool in pools.items()}


def _pieces(
    documents: Sequence[str], chunker: Chunker, tokenizer: ModelTokenizer, tokens: tuple[int, int]
) -> list[str]:
    pieces = [chunk.embed_text for text in documents for chunk in chunker.chunk(text, None)[:_FROM_ONE]]
    return [
        text for text, count in zip(pieces, tokenizer.counts(pieces), strict=True) if tokens[0] <= count <= tokens[1]
    ]


def flops(described: Mapping[str, float], config: Mapping[str, Any]) -> float:
    """Floating-point operations of one text of a kind in the mean, from a BERT's config.json; no padding.

    Two for every weight of the layers and every token, and 4 * hidden size a layer for every pair of tokens
    (attention). Norms, biases, GELU, softmax and pooling are left out: they are below one percent.
    """
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    layers = int(config["num_hidden_layers"])
    weights = layers * (4 * hidden**2 + 2 * hidden * inner)
    return described["tokens_mean"] * 2 * weights + described["tokens_squared_mean"] * 4 * layers * hidden
