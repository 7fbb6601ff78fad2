from __future__ import annotations

from pathlib import Path
from shutil import copy

import pytest

from app.model.folder import ModelFolder
from app.model.tokens import ModelTokenizer, Tokenizer
from schemas.errors import ModelMissing, UnembeddableText


@pytest.mark.model
def test_spans_are_code_points_of_the_text_even_beside_emoji_and_accents(model_tokenizer: ModelTokenizer) -> None:
    text = "The 😀 CAFÉ, cafe\u0301 [SEP] of\r\n漢字\0."
    words = [text[start:end] for start, end in model_tokenizer.spans(text)]
    assert [word.rstrip("\u0301") for word in words] == [
        "The",
        "😀",
        "CAFÉ",
        ",",
        "cafe",
        "[SEP]",
        "of",
        "漢",
        "字",
        ".",
    ]


@pytest.mark.model
def test_shipped_truncation_and_padding_are_undone(model_tokenizer: ModelTokenizer) -> None:
    assert model_tokenizer.max_tokens == 256
    assert [len(ids) for ids in model_tokenizer.ids(["one two", "word " * 1000, ""])] == [4, 256, 2]
    assert model_tokenizer.counts(["one two", "word " * 1000, ""]) == [4, 1002, 2]


def test_a_text_of_a_megabyte_gets_all_its_spans_in_order(tokenizer: Tokenizer) -> None:
    text = "All work and no play makes Jack a dull boy.\n" * 25_000
    spans = tokenizer.spans(text)
    assert len(spans) == 11 * 25_000
    assert spans == sorted(spans)
    assert text[slice(*spans[-2])] == "boy"


def test_tokens_of_blocks_are_those_of_the_whole(model_tokenizer: ModelTokenizer) -> None:
    text = "Antidisestablishmentarianism! 漢字。" * 3000
    spans = model_tokenizer.spans(text)
    assert len(spans) == model_tokenizer.counts([text])[0] - model_tokenizer.special_tokens


def test_blank_text_has_no_tokens_but_the_special_ones(tokenizer: Tokenizer) -> None:
    assert tokenizer.spans("") == tokenizer.spans(" \n\t") == []
    assert tokenizer.counts(["", " \n"]) == [tokenizer.special_tokens] * 2


def test_a_lone_surrogate_is_refused_with_its_position(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnembeddableText) as caught:
        tokenizer.counts(["fine", "broken \ud800"])
    assert caught.value.position == 1


@pytest.mark.model
def test_a_folder_without_a_tokenizer_is_a_missing_model(model_folder: ModelFolder, tmp_path: Path) -> None:
    copy(model_folder.path / "config.json", tmp_path)
    with pytest.raises(ModelMissing, match="tokenizer"):
        ModelTokenizer(ModelFolder(tmp_path, "bare"))
