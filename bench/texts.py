"""Texts for benchmarks: docstrings as they are, what they amount to in tokens, and queries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from app.local.corpus import Docstring, docstrings
from app.model.chunker import Chunker
from app.model.folder import ModelFolder
from app.model.source import find_model
from app.model.tokens import ModelTokenizer
from app.settings import Settings

_SENTENCE = re.compile(r"[A-Z][^.!?\n]{20,160}[.!?](?=\s|$)")


class Reader:
    """Reads the corpus once, in its order: every part that is taken is new text, and no text comes twice."""

    def __init__(self) -> None:
        self._documents: Iterator[Docstring] = docstrings()
        self._seen: set[str] = set()

    def documents(self, count: int, chars: tuple[int, int] = (0, 10**9)) -> list[Docstring]:
        """The next documents whose text has that many characters. Fewer where the corpus ends."""
        found = []
        for document in self._documents:
            if document.text in self._seen or not chars[0] <= len(document.text) <= chars[1]:
                continue
            self._seen.add(document.text)
            found.append(document)
            if len(found) == count:
                break
        return found

    def sentences(self, count: int) -> list[str]:
        """Sentences of documents that come next, one of each."""
        found: dict[str, None] = {}
        while len(found) < count and (documents := self.documents(count)):
            for document in documents:
                if match := _SENTENCE.search(document.text):
                    found.setdefault(" ".join(match[0].split()))
        return list(found)[:count]


class Cutter:
    """Tokenizer and chunker as the embed worker has them."""

    def __init__(self, settings: Settings) -> None:
        self.tokenizer = ModelTokenizer(ModelFolder(find_model(settings.model), settings.model))
        self._chunker = Chunker(self.tokenizer, settings.max_chunk_tokens)

    def chunks(self, text: str, title: str | None = None) -> list[str]:
        """What the model is given for a document."""
        return [chunk.embed_text for chunk in self._chunker.chunk(text, title)]

    def describe(self, texts: Sequence[str]) -> dict[str, Any]:
        """Count, characters and tokens of documents without titles, and how many chunks they make."""
        chunks = [chunk for text in texts for chunk in self.chunks(text)]
        return {
            "documents": len(texts),
            "characters": _spread([len(text) for text in texts]),
            "tokens": _spread(self.tokenizer.counts(texts)),
            "chunks": len(chunks),
            "chunk_tokens": _spread(self.tokenizer.counts(chunks)),
        }


def described(sizes: dict[str, Any]) -> str:
    """`Cutter.describe` as a sentence."""
    tokens, characters = sizes["tokens"], sizes["characters"]
    return (
        f"{sizes['documents']:,} documents of {characters['mean']:.0f} characters in the mean (median "
        f"{characters['median']:.0f}, p95 {characters['p95']:.0f}, longest {characters['max']:,.0f}), "
        f"{tokens['mean']:.0f} tokens in the mean (median {tokens['median']:.0f}, p95 {tokens['p95']:.0f}); "
        f"they are cut into {sizes['chunks']:,} chunks of {sizes['chunk_tokens']['mean']:.0f} tokens in the mean"
    )


def _spread(counts: Sequence[int]) -> dict[str, float]:
    values = np.asarray(counts)
    median, p95 = np.percentile(values, (50, 95))
    return {"mean": float(values.mean()), "median": float(median), "p95": float(p95), "max": float(values.max())}
