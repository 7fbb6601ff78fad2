"""A runtime that does not agree with the reference is never used silently."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.model import load
from app.model.agreement import agreement_of, agreement_of_some
from app.model.choice import Choice
from app.model.embedder import unit_rows
from app.model.load import load_embedder
from app.model.prepared import Prepared, check_texts, start_agreement
from app.model.source import DEFAULT_MODEL, open_source
from app.model.token_model import TokenModel
from app.settings import Settings
from schemas.errors import ModelDisagrees, ModelMissing


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, model=DEFAULT_MODEL, model_cache_dir=tmp_path, **values)


class Skewed:
    """A TokenModel that answers as another one does, off by so much in each number of its vectors."""

    def __init__(self, model: TokenModel, noise: float, name: str) -> None:
        self._model = model
        self._noise = noise
        self.runtime = name
        self.dim, self.lanes = model.dim, model.lanes
        self.tokens_per_call, self.length_step, self.batch_bytes = (
            model.tokens_per_call,
            model.length_step,
            model.batch_bytes,
        )

    def vectors(self, ids: NDArray[Any], mask: NDArray[Any], lane: int | None = None) -> NDArray[np.float32]:
        found = unit_rows(self._model.vectors(ids, mask, lane))
        noise = np.random.default_rng(ids.shape[0]).normal(size=found.shape) * self._noise / np.sqrt(self.dim)
        return found + noise.astype(np.float32)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the machine offer runtimes of such noise, in that order, made of its own first one."""

    def offer(*noises: float) -> None:
        real = load.choices

        def choices(*arguments: Any, **options: Any) -> list[Choice]:
            model = real(*arguments, **options)[0].load
            assert model is not None
            return [Choice(f"noise {n}", lambda n=n: Skewed(model(), n, f"noise {n}")) for n in noises]  # type: ignore[misc]

        monkeypatch.setattr(load, "choices", choices)

    return offer


@pytest.mark.model
def test_the_default_model_is_checked_at_start_without_being_prepared(tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="headrace.model"):
        load_embedder(settings(tmp_path))
    assert "top-10 overlap" in caplog.records[-1].getMessage()


@pytest.mark.model
def test_a_runtime_that_does_not_agree_gives_way_to_the_next_and_the_log_says_so(
    tmp_path: Path, offered: Any, caplog: pytest.LogCaptureFixture
) -> None:
    offered(0.12, 0.0)  # the first one's least cosine is about .993, as of dynamic int8
    with caplog.at_level(logging.INFO, logger="headrace.model"):
        assert load_embedder(settings(tmp_path)).runtime == "noise 0.0"
    warning = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert "noise 0.12 does not agree" in warning.getMessage()


@pytest.mark.model
def test_when_nothing_agrees_the_worker_does_not_start(tmp_path: Path, offered: Any) -> None:
    offered(0.12, 0.3)
    with pytest.raises(ModelDisagrees, match=r"noise 0\.12 .* noise 0\.3 "):
        load_embedder(settings(tmp_path))


@pytest.mark.model
def test_vectors_of_the_reference_are_found_where_prepare_keeps_them(tmp_path: Path) -> None:
    source = open_source(settings(tmp_path))
    packaged = source.prepared.reference
    assert packaged is not None
    other = Prepared(tmp_path, "other", lambda: "123")
    assert other.reference is None
    other.write(packaged, {"made_at": "now"})
    assert np.array_equal(Prepared(tmp_path, "other", lambda: "123").reference, packaged)
    assert other.facts() == {"made_at": "now"}


@pytest.mark.model
def test_a_model_that_nobody_prepared_is_used_and_the_log_says_that_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Prepared, "reference", None)
    with caplog.at_level(logging.INFO, logger="headrace.model"):
        load_embedder(settings(tmp_path))
    assert "agreement with the reference not known" in caplog.records[-1].getMessage()


@pytest.mark.model
def test_the_start_looks_at_texts_of_all_lengths(tmp_path: Path) -> None:
    seen: list[str] = []

    class Seeing:
        def embed(self, texts: list[str]) -> NDArray[np.float32]:
            seen.extend(texts)
            return unit_rows(np.ones((len(texts), 384), np.float32))

    reference = open_source(settings(tmp_path)).prepared.reference
    assert reference is not None
    found = start_agreement(Seeing(), reference)  # type: ignore[arg-type]
    assert found.top10_overlap < 0.5
    assert len(seen) == 16
    assert min(map(len, seen)) < 20 < 250 < max(map(len, seen))


def test_check_texts_are_many_and_different() -> None:
    texts = check_texts()
    assert len(set(texts)) == len(texts) > 150


def test_agreement_of_some_is_that_of_all_where_all_are_some() -> None:
    rng = np.random.default_rng(3)
    reference = unit_rows(rng.normal(size=(80, 16)).astype(np.float32))
    assert agreement_of(reference, reference).top10_overlap == 1
    shuffled = reference[rng.permutation(80)]
    assert agreement_of(shuffled, reference).top10_overlap < 0.5
    rows = np.array([3, 5, 70])
    assert agreement_of_some(reference[rows], reference, rows).top10_overlap == 1
    assert agreement_of_some(reference[rows + 1], reference, rows).cosine_min < 0.9


def test_the_fake_needs_no_files() -> None:
    assert load_embedder(Settings(_env_file=None, model="no/model", runtime="hashing")).runtime == "hashing"


def test_a_model_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="does not exist"):
        load_embedder(Settings(_env_file=None, model=str(tmp_path / "nothing")))
