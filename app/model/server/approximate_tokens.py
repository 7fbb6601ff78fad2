"""Tokens without a vocabulary, for models whose tokenizer is not at hand: rather too many than too few."""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.model.tokens import check_unicode

# A word of 1 to 4 letters is a token, a longer one a token for every 3 letters; each digit, each capital that does not
# begin a word, each other letter, each mark and each new line is one. With 4 letters throughout German had 1.27 times
# as many real tokens (all-MiniLM-L6-v2), with runs of capitals and digits in one base64 had 1.61 times (cl100k).
_PIECE = re.compile(r"[A-Z]?[a-z]{1,4}(?![a-z])|[A-Z]?[a-z]{1,3}|\S|\n")
_TWO = re.compile(r"[\u0900-\u1dff\u2c00-\u2fff\ua000-\ud7af]")  # Indic, Ethiopic, Georgian, Hangul: cut below letters
_THREE = re.compile(r"[\U00010000-\U0010ffff]")  # emoji and rare scripts: tokens of single bytes


class ApproximateTokenizer:
    """Pieces of words that are, for most text, more than a real tokenizer makes. Fulfils Tokenizer.

    How it compares with real ones is in docs/http-models.md. Two special tokens are assumed, as BERT has.
    """

    special_tokens = 2
    splits_at_space = False  # a new line is a token

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def spans(self, text: str) -> list[tuple[int, int]]:
        """See Tokenizer. 0.2 s for 1 MB of English."""
        check_unicode([text])
        spans = [match.span() for match in _PIECE.finditer(text)]
        if text.isascii():
            return spans
        return [span for span in spans for _ in range(_tokens(text[span[0]]))]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """See Tokenizer."""
        check_unicode(texts)
        return [self.special_tokens + _count(text) for text in texts]


def _count(text: str) -> int:
    pieces = len(_PIECE.findall(text))
    return pieces if text.isascii() else pieces + len(_TWO.findall(text)) + 2 * len(_THREE.findall(text))


def _tokens(letter: str) -> int:
    """How many tokens a piece is that begins with `letter`."""
    if letter >= "\U00010000":
        return 3
    return 2 if _TWO.match(letter) else 1
