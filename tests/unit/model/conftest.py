"""The default model's tokenizer, where its files are."""

from __future__ import annotations

import pytest

from app.model.folder import ModelFolder
from app.model.hashing import HashingTokenizer
from app.model.source import DEFAULT_MODEL, find_model
from app.model.tokens import ModelTokenizer, Tokenizer
from schemas.errors import ModelMissing
from tests.services import need


@pytest.fixture(scope="session")
def model_folder() -> ModelFolder:
    try:
        return ModelFolder(find_model(DEFAULT_MODEL), DEFAULT_MODEL)
    except ModelMissing as error:
        need(False, str(error))
        raise


@pytest.fixture(scope="session")
def model_tokenizer(model_folder: ModelFolder) -> ModelTokenizer:
    return ModelTokenizer(model_folder)


@pytest.fixture(scope="session", params=["hashing", pytest.param("model", marks=pytest.mark.model)])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "hashing":
        return HashingTokenizer()
    loaded: Tokenizer = request.getfixturevalue("model_tokenizer")
    return loaded
