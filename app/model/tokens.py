"""Where the tokens of a text are, and their ids: a model's own tokenizer without the padding it ships with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import orjson

from app.model.folder import ModelFolder
from schemas.errors import ModelMissing, UnembeddableText

_BLOCK_CODE_POINTS = 8192  # long texts are tokenised in blocks: one block per core at a time, memory stays flat
_BLOCK_BORDER = re.compile(r"\s|(?<=[。！？])")  # where the tokens of the parts are the tokens of the whole

_SPACE_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}  # of Hugging Face's `tokenizers`


class Tokenizer(Protocol):
    """What the chunker needs to know of a model's tokenizer. Safe to call from several threads.

    max_tokens: longest input of the model, special tokens included. special_tokens: how many of those there are.
    splits_at_space: whether the tokens of a text are those of its words, between white space, one by one.
    """

    max_tokens: int
    special_tokens: int
    splits_at_space: bool

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of every token of a text of any length, in code points, by start; no special tokens.

        Several tokens may share a span where the model cuts below a code point. Raises UnembeddableText(0).
        """

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included, nothing truncated. Raises UnembeddableText."""


class ModelTokenizer:
    """A model's own tokenizer (tokenizer.json, run by Hugging Face's `tokenizers`)."""

    def __init__(self, folder: ModelFolder) -> None:
        """Load it. Raises ModelMissing when tokenizer.json is absent or not understood."""
        self.max_tokens = folder.max_tokens
        self._whole = _load(folder)
        self._cut = _load(folder)
        self._cut.enable_truncation(self.max_tokens)
        self.special_tokens = int(self._whole.num_special_tokens_to_add(is_pair=False))
        self.splits_at_space = _splits_at_space(orjson.loads(self._whole.to_str())["pre_tokenizer"])

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with special tokens, truncated at `max_tokens`, not padded.

        Raises UnembeddableText.
        """
        return [encoding.ids for encoding in _encode(self._cut.encode_batch_fast, texts)]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """See Tokenizer."""
        return [len(encoding) for encoding in _encode(self._whole.encode_batch_fast, texts)]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """See Tokenizer. Linear in the text: 0.5 to 1 s for 1 MB of English on two cores."""
        blocks = list(_blocks(text))
        encodings = _encode(self._whole.encode_batch, [block for _, block in blocks], add_special_tokens=False)
        return [
            (base + start, base + end)
            for (base, _), encoding in zip(blocks, encodings, strict=True)
            for start, end in encoding.offsets
        ]


def check_unicode(texts: Sequence[str]) -> None:
    """Raise UnembeddableText for the first text with a lone surrogate, which no tokenizer takes."""
    for position, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnembeddableText("the text has a lone surrogate: it is not valid Unicode", position) from error


def _splits_at_space(pre_tokenizer: dict[str, Any] | None) -> bool:
    """As WordPiece and the Unigram of XLM-R do; byte-level BPE has tokens with white space."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    return any(step.get("type") in _SPACE_SPLITTERS for step in steps)


def _load(folder: ModelFolder) -> Any:
    from tokenizers import Tokenizer as HubTokenizer

    path = folder.path / "tokenizer.json"
    try:
        tokenizer = HubTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelMissing(f"the tokenizer of {folder.name} does not load from {path}: {error}") from error
    tokenizer.no_padding()  # the default model ships truncation and fixed padding at 128
    tokenizer.no_truncation()
    return tokenizer


def _encode(encode: Any, texts: Sequence[str], **options: Any) -> list[Any]:
    try:
        encodings: list[Any] = encode(list(texts), **options)
    except TypeError:  # what the library raises for lone surrogates
        check_unicode(texts)
        raise
    return encodings


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """(offset, part) of the whole text in order."""
    start = 0
    while start < len(text):
        border = _BLOCK_BORDER.search(text, start + _BLOCK_CODE_POINTS)
        end = border.start() if border else len(text)
        yield start, text[start:end]
        start = end
