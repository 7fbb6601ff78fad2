"""How many tokens texts are, with as little work for the tokenizer as will do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from app.model.tokens import Tokenizer


class Meter:
    """Counts tokens without special tokens, of parts of a text as they are inside of it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text. Exact where words are tokens of their own, else within a token or two of each text's seams.

        In most texts few words are different: counting those once is several times faster. Raises UnembeddableText.
        """
        if not self._tokenizer.splits_at_space:
            return self._counts(texts)
        split = [text.split() for text in texts]
        words = list(dict.fromkeys(chain.from_iterable(split)))
        known = dict(zip(words, self._counts(words), strict=True))
        return [sum([known[word] for word in words]) for words in split]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """See Tokenizer; slower than counting."""
        return self._tokenizer.spans(text)

    def limited(self, text: str, max_tokens: int) -> tuple[str, int]:
        """The beginning of a stripped text that is at most `max_tokens`, and its tokens with a newline after it."""
        if text.isascii() and len(text) < max_tokens:  # a token has at least one character
            return text, len(text) + 1 if text else 0
        while text:
            spans = self._tokenizer.spans(text)
            if len(spans) <= max_tokens:
                return text, len(spans) + 1
            text = text[: min(spans[max_tokens - 1][1], len(text) - 1)].rstrip()
        return "", 0

    def _counts(self, texts: Sequence[str]) -> list[int]:
        special = self._tokenizer.special_tokens
        return [count - special for count in self._tokenizer.counts(texts)]
