"""BatchedEmbedder on a model that can be told to fail: what it promises whatever the runtime does."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.model.batched import BatchedEmbedder
from app.model.folder import ModelFolder
from app.model.runs import RunFacts
from app.model.tokens import ModelTokenizer
from schemas.errors import EmbedderUnavailable, TextsRefused, UnembeddableText

DIM = 8
POISON = "zebra"
pytestmark = pytest.mark.model


class CountingModel:
    """Fulfils TokenModel: the vector of a text says which tokens it has and how many."""

    runtime = "counting"
    dim = DIM
    tokens_per_call = 256
    length_step = 16
    batch_bytes = 65_536

    def __init__(self, lanes: int = 2, room: int = 10**9, poison: int | None = None) -> None:
        self.lanes = lanes
        self.room = room
        self.poison = poison
        self.calls: list[tuple[tuple[int, int], int | None]] = []
        self.busy: set[int | None] = set()
        self.most_busy = 0
        self._lock = threading.Lock()

    def vectors(self, ids: NDArray[np.int32], mask: NDArray[np.bool_], lane: int | None = None) -> NDArray[np.float32]:
        with self._lock:
            assert lane not in self.busy, "a lane is used by two threads"
            assert lane is not None or not self.busy, "alone means alone"
            self.busy.add(lane)
            self.most_busy = max(self.most_busy, len(self.busy))
            self.calls.append(((ids.shape[0], ids.shape[1]), lane))
        try:
            if ids.size > self.room:
                raise MemoryError("no room")
            if self.poison is not None and (ids == self.poison).any():
                raise TextsRefused("something in there")
            slots = np.arange(1, DIM + 1)
            rows = [
                np.bincount(own[held] % DIM, minlength=DIM) + slots * held.sum()
                for own, held in zip(ids, mask, strict=True)
            ]
            return np.array(rows, np.float32)
        finally:
            with self._lock:
                self.busy.discard(lane)


@pytest.fixture
def tokenizer(model_folder: ModelFolder) -> ModelTokenizer:
    return ModelTokenizer(model_folder)


def texts_of(count: int) -> list[str]:
    return [f"water {number} " + "mill wheel " * (number * 37 % 90) for number in range(count)]


def embedder(
    folder: ModelFolder, tokenizer: ModelTokenizer, model: CountingModel, seen: list[RunFacts] | None = None
) -> BatchedEmbedder:
    return BatchedEmbedder(folder, tokenizer, model, "f", (seen if seen is not None else []).append)


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 40, 700])
def test_each_text_gets_its_own_vector_in_the_callers_order(
    model_folder: ModelFolder, tokenizer: ModelTokenizer, lanes: int, count: int
) -> None:
    texts = texts_of(count)
    batched = embedder(model_folder, tokenizer, CountingModel(lanes))
    together = batched.embed(texts)
    alone = np.concatenate([batched.embed([text]) for text in texts[::7]])
    assert np.array_equal(together[::7], alone)
    assert len(np.unique(together, axis=0)) > len(texts) * 0.7  # they differ, so an order that is wrong shows


def test_one_text_uses_no_lane_and_many_use_all(model_folder: ModelFolder, tokenizer: ModelTokenizer) -> None:
    model = CountingModel(3)
    embedder(model_folder, tokenizer, model).embed(["one"])
    assert [lane for _, lane in model.calls] == [None]
    embedder(model_folder, tokenizer, model).embed(texts_of(500))
    assert {0, 1, 2} <= {lane for _, lane in model.calls}


def test_every_token_is_counted_once(model_folder: ModelFolder, tokenizer: ModelTokenizer) -> None:
    seen: list[RunFacts] = []
    texts = texts_of(300)
    embedder(model_folder, tokenizer, CountingModel(), seen).embed(texts)
    assert sum(run.texts for run in seen) == len(texts)
    assert sum(run.tokens for run in seen) == sum(min(256, count) for count in tokenizer.counts(texts))
    assert all(run.tokens <= run.padded_tokens for run in seen)


def test_without_memory_for_a_run_it_is_done_in_parts(model_folder: ModelFolder, tokenizer: ModelTokenizer) -> None:
    texts = texts_of(200)
    whole = embedder(model_folder, tokenizer, CountingModel()).embed(texts)
    seen: list[RunFacts] = []
    tight = CountingModel(room=300)
    tight.tokens_per_call = 2048
    assert np.array_equal(embedder(model_folder, tokenizer, tight, seen).embed(texts), whole)
    assert seen[-1].budget_tokens < 2048
    assert sum(run.texts for run in seen) == len(texts)


def test_one_text_that_does_not_fit_into_memory_may_be_tried_again(
    model_folder: ModelFolder, tokenizer: ModelTokenizer
) -> None:
    model = CountingModel(room=0)
    batched = embedder(model_folder, tokenizer, model)
    with pytest.raises(EmbedderUnavailable, match="memory"):
        batched.embed(texts_of(20))
    model.room = 10**9
    assert batched.embed(["fine"]).shape == (1, DIM)


def test_a_failure_leaves_nothing_running_and_every_lane_free(
    model_folder: ModelFolder, tokenizer: ModelTokenizer
) -> None:
    model = CountingModel(2, poison=tokenizer.ids([POISON])[0][1])
    batched = embedder(model_folder, tokenizer, model)
    texts = texts_of(400)
    texts[200] = f"a {POISON} by the river " * 8
    with pytest.raises(TextsRefused):
        batched.embed(texts)
    assert not model.busy
    del texts[200]
    assert batched.embed(texts).shape == (399, DIM)


def test_a_text_that_is_not_unicode_is_named_by_its_place_among_all(
    model_folder: ModelFolder, tokenizer: ModelTokenizer
) -> None:
    texts = texts_of(300)
    texts[123] = "broken \ud800"
    with pytest.raises(UnembeddableText) as caught:
        embedder(model_folder, tokenizer, CountingModel()).embed(texts)
    assert caught.value.position == 123


def test_a_vector_that_is_not_finite_names_its_text(model_folder: ModelFolder, tokenizer: ModelTokenizer) -> None:
    class Broken(CountingModel):
        def vectors(
            self, ids: NDArray[np.int32], mask: NDArray[np.bool_], lane: int | None = None
        ) -> NDArray[np.float32]:
            found = super().vectors(ids, mask, lane)
            found[mask.sum(axis=1) == 3] = np.nan  # the one word between the special tokens
            return found

    texts = [*texts_of(50), "word", *texts_of(50)]
    with pytest.raises(UnembeddableText) as caught:
        embedder(model_folder, tokenizer, Broken()).embed(texts)
    assert caught.value.position == 50


def test_the_pad_token_is_the_models_own(tmp_path: Path, model_folder: ModelFolder, tokenizer: ModelTokenizer) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**model_folder.config, "pad_token_id": 5}))
    seen: list[NDArray[np.int32]] = []

    class Seeing(CountingModel):
        def vectors(
            self, ids: NDArray[np.int32], mask: NDArray[np.bool_], lane: int | None = None
        ) -> NDArray[np.float32]:
            seen.append(ids[~mask])
            return super().vectors(ids, mask, lane)

    embedder(ModelFolder(tmp_path, "m"), tokenizer, Seeing()).embed(["one"])
    assert set(np.concatenate(seen)) == {5}
