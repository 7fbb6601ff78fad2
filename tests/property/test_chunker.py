"""Chunks of any text are sound, with tokenizers of every kind, and an edit of a long text changes few of them."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from app.local.corpus import docstrings, installed_roots
from app.model.chunker import Chunker, Cut
from app.model.folder import ModelFolder
from app.model.hashing import HashingTokenizer
from app.model.tokens import ModelTokenizer, Tokenizer
from tests.chunks import assert_sound

_ALPHABET = st.one_of(
    st.sampled_from(list("abcde  \n\n..!?。漢字\r\0\t\u0301😀\u200d\u2029#=-|`")),
    st.characters(codec="utf-8"),
)
_MARKED = [
    "# Head\n\n",
    "\nHead\n====\n",
    "| a | b |\n|---|---|\n",
    "| 1 | 2 |\n",
    "```\n",
    "\n\n## Long head " + "so " * 30,
]
_PARTS = st.one_of(
    st.text(_ALPHABET, max_size=40),
    st.sampled_from(["word ", "Unbelievably so. ", "\n\n", "x" * 130, " " * 300, "漢" * 90, "😀" * 50, *_MARKED]),
)
_TEXTS = st.lists(st.tuples(_PARTS, st.integers(1, 30)), max_size=12).map(
    lambda parts: "".join(p * n for p, n in parts)
)
_TITLES = st.one_of(st.none(), st.text(_ALPHABET, max_size=30), st.just("A very long title of many words " * 50))
_SENTENCE = re.compile(r"(?:(?<=\n)|(?<=[.!?] ))[A-Z][^.!?\n]{20,160}[.!?](?=\s)")  # and no heading


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    """A small tokenizer of that kind, made of docstrings."""
    if kind == "hashing":
        return HashingTokenizer()
    texts = [document.text for document in docstrings(300)]
    if kind == "byte-level BPE":
        made = HubTokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
        )
    else:
        made = HubTokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        trainer = trainers.UnigramTrainer(
            vocab_size=1000, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
        made.train_from_iterator(texts, trainer)
    with TemporaryDirectory() as folder:
        made.save(str(Path(folder, "tokenizer.json")))
        Path(folder, "config.json").write_text('{"max_position_embeddings": 512}')
        return ModelTokenizer(ModelFolder(Path(folder), kind))


each_kind = pytest.mark.parametrize("kind", ["hashing", "byte-level BPE", "unigram"])


@each_kind
@settings(max_examples=60)
@given(text=_TEXTS, title=_TITLES, max_tokens=st.sampled_from([16, 17, 40, 256, 1000]))
def test_chunks_cover_all_text_in_order_without_overlap_within_the_budget(
    kind: str, text: str, title: str | None, max_tokens: int
) -> None:
    tokenizer = tokenizer_of(kind)
    cut = Chunker(tokenizer, max_tokens).cut(text, title)
    chunks = cut.chunks(text, title)
    assert Cut.decode(cut.encode()) == cut == Chunker(tokenizer, max_tokens).cut(text, title)
    if not text.strip():
        assert chunks == [] or [(chunk.start, chunk.end) for chunk in chunks] == [(0, 0)]
        return
    assert_sound(text, chunks, tokenizer, min(max_tokens, tokenizer.max_tokens))


@given(
    st.integers(0, 2**40), st.lists(st.tuples(*[st.integers(0, 2**20)] * 2, st.lists(st.integers(0, 9))), max_size=9)
)
def test_any_cut_comes_back_from_its_bytes(title_chars: int, parts: list[tuple[int, int, list[int]]]) -> None:
    spans, end = [], 0
    for gap, length, _ in parts:
        spans.append((end + gap, end + gap + length))
        end = spans[-1][1]
    lines = [(9 * line, 10 * line) for line in range(10)]
    contexts = tuple(tuple(lines[line] for line in held) for _, _, held in parts)
    cut = Cut(title_chars, tuple(spans), contexts if any(contexts) else ())
    assert Cut.decode(cut.encode()) == cut


_MARKED = re.compile(r"^\s*(#|```|~~~|([=\-~^*]){3,}\s*$)", re.MULTILINE)


@cache
def parts() -> list[str]:
    """Of the standard library alone: other packages are not the same everywhere."""
    return [document.text for document in docstrings(3000, [root for root in installed_roots() if root[1]])]


def prose(chunk_count: int, seed: int, *, plain: bool = False) -> str:
    """Docstrings, one after the other, that make about so many chunks. plain: without headings and fences."""
    texts = [text for text in parts() if not plain or not _MARKED.search(text)]
    random.Random(seed).shuffle(texts)
    return "\n\n".join(texts)[: chunk_count * 650]


def edited(text: str, choose: random.Random, kind: str) -> str:
    start, end = choose.choice(list(_SENTENCE.finditer(text))).span()
    words = [f"w{choose.randrange(10**6)}" for _ in range(choose.randrange(4, 25))]
    new = f"{' '.join(words).capitalize()}."
    return {
        "insert": f"{text[:end]} {new}{text[end:]}",
        "delete": text[:start] + text[end:].lstrip(" "),
        "change": text[:start] + new + text[end:],
    }[kind]


@pytest.mark.parametrize(("chunk_count", "document_count", "edit_count"), [(10, 20, 6), (100, 4, 24), (500, 2, 15)])
def test_an_edit_of_one_sentence_changes_three_chunks_at_most_and_hardly_ever_more(
    chunk_count: int, document_count: int, edit_count: int
) -> None:
    chunker = Chunker(HashingTokenizer(), 256)
    fresh = []
    for seed in range(document_count):
        text = prose(chunk_count, seed)
        before = {chunk.embed_text for chunk in chunker.chunk(text, "Title")}
        assert 0.5 * chunk_count < len(before) < 2 * chunk_count
        choose = random.Random(seed)
        for kind in ("insert", "delete", "change") * (edit_count // 3):
            after = {chunk.embed_text for chunk in chunker.chunk(edited(text, choose, kind), "Title")}
            fresh.append(len(after - before))
    # 96 to 99 % in bench/results/chunks.md; of 30 edits one more or less is 3 %
    assert sum(count <= 3 for count in fresh) >= 0.9 * len(fresh), sorted(fresh)
    assert max(fresh) <= 6, sorted(fresh)  # two segments of three chunks
    assert sum(fresh) / len(fresh) <= 2, sorted(fresh)


def test_text_put_before_everything_leaves_the_other_chunks_alone() -> None:
    chunker = Chunker(HashingTokenizer(), 256)
    text = prose(100, seed=1)
    before = {chunk.embed_text for chunk in chunker.chunk(text, None)}
    after = {chunk.embed_text for chunk in chunker.chunk("A preface of some words. " * 300 + "\n\n" + text, None)}
    assert len(before - after) <= 3


def test_a_paragraph_that_is_moved_is_not_cut_differently_elsewhere() -> None:
    chunker = Chunker(HashingTokenizer(), 256)
    text = prose(100, seed=2, plain=True)  # a heading that is moved goes before other chunks
    half = text.index("\n\n", len(text) // 2)
    before = {chunk.embed_text for chunk in chunker.chunk(text, None)}
    after = {chunk.embed_text for chunk in chunker.chunk(text[half:].lstrip() + "\n\n" + text[:half], None)}
    assert len(after - before) <= 15  # three seams
