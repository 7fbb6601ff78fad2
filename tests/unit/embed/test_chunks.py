"""Where vectors come from, what is kept when, what was spared, and how a text that breaks the model is found."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from app.embed.careful import CarefulEmbedder
from app.embed.chunks import Embedded
from app.embed.economics import Economics
from app.local.redis import LocalRedis
from app.model.hashing import HashingEmbedder
from app.observe.metrics import EmbedMetrics
from app.settings import Settings
from schemas.errors import BrokerUnavailable, EmbedderUnavailable, TextsRefused, UnembeddableText
from tests.unit.embed.parts import MoodyEmbedder, Parts, event, folded, work_of


def value(parts: Parts, name: str) -> float:
    found = parts.metrics.registry.get_sample_value(name)
    assert found is not None
    return found


def redis_settings(server: LocalRedis) -> Settings:
    return Settings(_env_file=None, redis_url=server.url, redis_timeout_ms=5000, redis_batch_ms=60_000)


def fresh_embedder() -> MoodyEmbedder:
    embedder = MoodyEmbedder()
    embedder.fingerprint = uuid.uuid4().hex
    return embedder


@pytest.mark.redis
def test_every_chunk_and_cut_is_counted_once_by_where_it_came_from(shared_redis: LocalRedis) -> None:
    embedder = fresh_embedder()
    one = Parts(embedder, settings=redis_settings(shared_redis))
    one.process(event(0, "a", "first"), event(1, "b", "second"))
    other = Parts(embedder, settings=redis_settings(shared_redis))
    other.process(event(2, "c", "third"))
    batch = ["first", "third", "new", "new", "second", "first"]
    other.process(*(event(3 + n, f"d{n}", text) for n, text in enumerate(batch)))
    assert other.sources("chunks") == {"model": 2, "memory": 1, "redis": 2, "batch": 2, "worker": 0}
    assert other.sources("cuts") == {"chunker": 2, "memory": 1, "redis": 2, "batch": 2}
    assert value(other, "headrace_embed_redis_seconds_total") > 0


@pytest.mark.redis
@pytest.mark.parametrize("foreign", [b"", b"x", b"too long to be a vector of sixteen dimensions"])
def test_bytes_in_redis_that_are_not_ours_are_as_if_nothing_were_known(
    shared_redis: LocalRedis, foreign: bytes
) -> None:
    embedder = fresh_embedder()
    parts = Parts(embedder, settings=redis_settings(shared_redis))
    parts.process(event(0, "a", "first"))
    other = Parts(embedder, settings=redis_settings(shared_redis))
    (key,) = other.caches.vectors.keys(["first"])
    (cut,) = other.caches.cuts.keys(["\0first"])
    other.link.call(lambda client: client.mset({other.caches.vectors.in_redis([key])[0]: foreign}))
    other.link.call(lambda client: client.mset({other.caches.cuts.in_redis([cut])[0]: b"\0" * 3}))
    for offset in (1, 2):  # the second time from what was put in its place
        other.process(event(offset, f"d{offset}", "first"))
    assert embedder.seen == ["first", "first"]
    assert folded(other.producer.log) == {(0, "d1"): ("first", None, {}), (0, "d2"): ("first", None, {})}


@pytest.mark.redis
def test_what_the_model_made_is_in_redis_before_anything_is_produced(shared_redis: LocalRedis) -> None:
    embedder = fresh_embedder()
    parts = Parts(embedder, settings=redis_settings(shared_redis))
    parts.producer.error, parts.producer.lose = BrokerUnavailable("gone"), 0
    with pytest.raises(BrokerUnavailable):
        parts.process(event(0, "a", "first"))
    other = Parts(embedder, settings=redis_settings(shared_redis))
    other.process(event(0, "a", "first"))
    assert embedder.calls == 1
    assert other.sources("chunks")["redis"] == 1


@pytest.mark.redis
def test_a_batch_asks_redis_seven_times_at_most_and_none_of_it_for_nothing(shared_redis: LocalRedis) -> None:
    embedder = fresh_embedder()
    parts = Parts(embedder, settings=redis_settings(shared_redis))
    calls = []
    original = parts.link.call

    def call(action: Callable[..., object]) -> object:
        calls.append(action)
        return original(action)

    parts.link.call = call  # type: ignore[method-assign, assignment]
    parts.process(*(event(n, f"d{n}", f"text {n}") for n in range(200)))
    assert len(calls) == 4  # cuts, vectors, claims, keep; applied states are in memory here
    calls.clear()
    parts.process(*(event(300 + n, f"e{n}", f"text {n}") for n in range(200)))
    assert calls == []
    parts.process(event(700, "e0"))  # a delete has no text to look up
    assert calls == []


def test_what_was_spared_is_told_in_seconds_of_the_model() -> None:
    metrics = EmbedMetrics()
    economics = Economics(metrics)
    assert economics.estimate_s(1000) is None
    economics.chunks({"redis": 1}, 1000)  # unknown: nothing is claimed to be saved
    economics.called(100, 1.0)
    assert economics.estimate_s(1000) == pytest.approx(10.0)
    economics.chunks({"memory": 2, "redis": 1}, 50)
    economics.called(0, 60.0)  # a call that failed says nothing of the next
    assert metrics.registry.get_sample_value("headrace_embed_model_seconds_saved_total") == pytest.approx(0.5)
    assert metrics.registry.get_sample_value("headrace_embed_model_seconds_total") == pytest.approx(61.0)
    for _ in range(100):
        economics.called(100, 0.1)
    assert economics.estimate_s(1000) == pytest.approx(1.0, rel=0.01)


def test_a_known_text_is_counted_as_seconds_saved_and_a_new_one_is_not() -> None:
    parts = Parts()
    parts.process(event(0, "a", "one text"))
    assert value(parts, "headrace_embed_model_seconds_saved_total") == 0
    parts.process(event(1, "b", "one text"))
    spent = value(parts, "headrace_embed_model_seconds_total")
    assert value(parts, "headrace_embed_model_seconds_saved_total") == pytest.approx(spent)


# --- texts that the model refuses


class RefusingEmbedder(HashingEmbedder):
    """Like a server that refuses a whole request and does not say for which of its texts."""

    def __init__(self, *bad: str) -> None:
        super().__init__(dim=16)
        self.bad = bad
        self.requests: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.requests.append(list(texts))
        if any(text in self.bad for text in texts):
            raise TextsRefused("400: input too long")
        return super().embed(texts)


def careful(embedder: HashingEmbedder) -> CarefulEmbedder:
    return CarefulEmbedder(embedder, Economics(EmbedMetrics()), "float16")


def test_refused_texts_are_found_by_halving_and_the_others_are_embedded() -> None:
    texts = [f"t{n}" for n in range(16)]
    embedder = RefusingEmbedder("t3", "t12")
    results = careful(embedder).embed(texts)
    broken = [n for n, result in enumerate(results) if isinstance(result, UnembeddableText)]
    assert broken == [3, 12]
    assert "400: input too long" in str(results[3])
    expected = HashingEmbedder(dim=16).embed(texts).astype(np.float16)
    good = [n for n in range(16) if n not in broken]
    np.testing.assert_array_equal(np.stack([results[n] for n in good]), expected[good])  # type: ignore[arg-type]
    assert len(embedder.requests) < 16 + 2  # two paths of five calls, their siblings, and two canaries


def test_a_model_that_refuses_everything_blames_no_text() -> None:
    embedder = RefusingEmbedder("t0", "t1", "headrace")
    with pytest.raises(EmbedderUnavailable, match="any text"):
        careful(embedder).embed(["t0", "t1"])


def test_refused_texts_are_dead_lettered_alone() -> None:
    parts = Parts(RefusingEmbedder("poison"))  # type: ignore[arg-type]
    parts.process(event(0, "a", "x"), event(1, "b", "poison"), event(2, "c", "z"))
    assert folded(parts.producer.log) == {(0, "a"): ("x", None, {}), (0, "c"): ("z", None, {})}
    assert parts.outcome("dead_letter") == 1


def test_texts_in_one_batch_share_the_vectors_of_one_array_and_keep_their_order() -> None:
    parts = Parts()
    texts = ["b text", "a text", "b text", "", "c text"]
    works = [work_of(event(n, f"d{n}", text)) for n, text in enumerate(texts)]
    results = parts.chunks.embed([*works, work_of(event(9, "gone"))]).results
    expected = parts.embedder.embed(["b text", "a text", "b text", "c text"]).astype(np.float16)
    good = [result for result in results if isinstance(result, Embedded)]
    assert [len(result.chunks) for result in good] == [1, 1, 1, 0, 1, 0]
    np.testing.assert_array_equal(np.concatenate([result.vectors for result in good]), expected)
    assert {result.vectors.shape[1] for result in good} == {16}
