from __future__ import annotations

import inspect
import logging
import shutil
import statistics
from pathlib import Path

import pytest

from app.model.chunker import Chunker
from app.model.folder import ModelFolder
from app.model.server.approximate_tokens import ApproximateTokenizer
from app.model.server.tokenizer import server_tokenizer
from app.model.source import DEFAULT_MODEL
from app.model.tokens import ModelTokenizer
from app.settings import Settings
from schemas.errors import ModelMissing, UnembeddableText

URL = "http://localhost:8000/v1"


@pytest.fixture
def tokenizer() -> ApproximateTokenizer:
    return ApproximateTokenizer(256)


def settings(**changes: object) -> Settings:
    return Settings(_env_file=None, runtime="http", embeddings_url=URL, **changes)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("mill Mill I", ["mill", "Mill", "I"]),
        ("water Streams", ["wat", "er", "Stre", "ams"]),
        ("camelCase HTTP 404", ["cam", "el", "Case", "H", "T", "T", "P", "4", "0", "4"]),
        ("für, où?\n", ["f", "ü", "r", ",", "o", "ù", "?", "\n"]),
        ("漢字 мир", ["漢", "字", "м", "и", "р"]),
        ("한 க", ["한", "한", "க", "க"]),
        ("a😀", ["a", "😀", "😀", "😀"]),
        (" \t", []),
    ],
)
def test_words_are_cut_into_pieces(tokenizer: ApproximateTokenizer, text: str, pieces: list[str]) -> None:
    assert [text[start:end] for start, end in tokenizer.spans(text)] == pieces
    assert tokenizer.counts([text]) == [len(pieces) + 2]


def test_a_lone_surrogate_is_refused_with_its_position(tokenizer: ApproximateTokenizer) -> None:
    with pytest.raises(UnembeddableText) as caught:
        tokenizer.counts(["fine", "broken \ud800"])
    assert caught.value.position == 1
    with pytest.raises(UnembeddableText):
        tokenizer.spans("broken \ud800")


@pytest.mark.model
@pytest.mark.parametrize("module", [logging, statistics, inspect])
def test_chunks_of_english_and_code_have_no_more_real_tokens_than_counted(
    tokenizer: ApproximateTokenizer, model_tokenizer: ModelTokenizer, module: object
) -> None:
    chunks = Chunker(tokenizer, 256).chunk(Path(str(module.__file__)).read_text(), "A title")  # type: ignore[attr-defined]
    texts = [chunk.embed_text for chunk in chunks]
    counted, real = tokenizer.counts(texts), model_tokenizer.counts(texts)

    assert max(counted) <= 256
    assert max(real) <= 256
    assert sum(real) > 0.5 * sum(counted)


def test_unset_the_limit_is_that_of_chunks() -> None:
    found = server_tokenizer(settings(max_chunk_tokens=100))
    assert isinstance(found, ApproximateTokenizer)
    assert found.max_tokens == 100


@pytest.mark.model
def test_a_model_folder_or_the_default_models_name_gives_its_tokenizer_and_limit(model_folder: ModelFolder) -> None:
    for name in (str(model_folder.path), DEFAULT_MODEL):
        found = server_tokenizer(settings(embeddings_tokenizer=name))
        assert isinstance(found, ModelTokenizer)
        assert found.max_tokens == 256


@pytest.mark.model
def test_a_tokenizer_alone_is_enough(model_folder: ModelFolder, tmp_path: Path) -> None:
    shutil.copy(model_folder.path / "tokenizer.json", tmp_path)
    found = server_tokenizer(settings(embeddings_tokenizer=str(tmp_path), max_chunk_tokens=100))
    assert found.max_tokens == 100
    assert found.counts(["a mill"]) == [4]


def test_a_folder_without_a_tokenizer_is_named_with_the_setting(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "absent")):
        with pytest.raises(ModelMissing, match="HEADRACE_EMBEDDINGS_TOKENIZER"):
            server_tokenizer(settings(embeddings_tokenizer=name))


def test_a_tokenizer_that_the_hub_does_not_give_is_named_with_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelMissing, match=r"nobody/no-such-model.*HEADRACE_EMBEDDINGS_TOKENIZER") as caught:
        server_tokenizer(settings(embeddings_tokenizer="nobody/no-such-model"))
    assert "\n" not in str(caught.value)
