from __future__ import annotations

import subprocess
import sys

from app.model.hashing import HashingEmbedder


def test_texts_that_share_words_are_nearer_than_texts_that_do_not() -> None:
    query, near, far = HashingEmbedder().embed(["the old mill", "an old mill by the river", "tax return forms"])
    assert query @ near > 0.5 > 0.2 > query @ far


def test_word_order_and_case_do_not_matter_but_words_do() -> None:
    first, same, other = HashingEmbedder().embed(["Mill River", "river mill", "river bank"])
    assert first @ same > 0.999
    assert first @ other < 0.9


def test_vectors_are_the_same_in_another_process() -> None:
    script = "from app.model.hashing import HashingEmbedder as H; print(H(32).embed(['some words'])[0].tolist())"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(HashingEmbedder(32).embed(["some words"])[0].tolist())


def test_calls_and_texts_are_counted() -> None:
    embedder = HashingEmbedder(dim=16)
    embedder.embed(["a", "b"])
    embedder.embed([])
    assert (embedder.calls, embedder.texts) == (2, 2)
    assert embedder.embed(["a"]).shape == (1, 16)
