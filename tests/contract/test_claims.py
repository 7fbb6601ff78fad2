"""Two workers that meet the same new texts: each text is paid for once, and a worker that dies costs a short wait."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from app.embed.cache import Caches, TextCache
from app.embed.chunks import ChunkEmbedder, Embedded, EmbeddedBatch
from app.embed.claims import Claims
from app.embed.economics import Economics
from app.embed.events import Work
from app.local.redis import LocalRedis, find_redis_server
from app.model.chunker import Chunker
from app.model.hashing import HashingEmbedder
from app.observe.metrics import EmbedMetrics
from app.redis_link import RedisLink
from app.settings import Settings
from tests.services_local import eventually, redis_or_skip
from tests.unit.embed.parts import event, work_of

pytestmark = pytest.mark.redis
LONGEST_WAIT_S = 30.0


class GatedEmbedder(HashingEmbedder):
    """Waits in each call until the test opens the gate."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(dim=16)
        self.fingerprint = fingerprint
        self.seen: list[str] = []
        self.gate = threading.Event()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen += texts
        assert self.gate.wait(30)
        return super().embed(texts)


class Worker:
    """A ChunkEmbedder as a worker has it, with its own connection to Redis. slept: how long it waited for others."""

    def __init__(self, url: str, fingerprint: str, *, alone: bool = False, longest_wait_s: float = LONGEST_WAIT_S):
        self.link = RedisLink(Settings(_env_file=None, redis_url=url, redis_timeout_ms=5000, redis_batch_ms=60_000))
        self.embedder = GatedEmbedder(fingerprint)
        self.metrics = EmbedMetrics()
        self.slept: list[float] = []
        vectors, cuts = (TextCache(self.link, name, fingerprint, 2**20, 1) for name in ("vector", "cut"))
        self.claims = Claims(self.link, vectors, lambda: alone, longest_wait_s=longest_wait_s, sleep=self._sleep)
        chunker = Chunker(self.embedder.tokenizer, 256)
        caches = Caches(self.link, vectors, cuts)
        self.economics = Economics(self.metrics)
        self.chunks = ChunkEmbedder(self.embedder, chunker, caches, self.claims, self.economics)
        self.vectors = vectors

    def start(self, texts: Sequence[str]) -> Running:
        return Running(self, [work_of(event(n, f"d{n}", text)) for n, text in enumerate(texts)])

    def count(self, source: str) -> float:
        return self.metrics.registry.get_sample_value("headrace_embed_chunks_total", {"source": source}) or 0.0

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        threading.Event().wait(seconds)


class Running(threading.Thread):
    """Embeds in a thread of its own, as two workers do."""

    def __init__(self, worker: Worker, works: list[Work]) -> None:
        super().__init__(daemon=True)
        self._worker, self._works = worker, works
        self.batch: EmbeddedBatch | None = None
        self.start()

    def run(self) -> None:
        self.batch = self._worker.chunks.embed(self._works)

    def vectors(self) -> list[bytes]:
        self.join(60)
        assert self.batch is not None
        good = [result for result in self.batch.results if isinstance(result, Embedded)]
        assert len(good) == len(self._works)
        return [result.vectors.tobytes() for result in good]


@pytest.fixture
def fingerprint() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def two(shared_redis: LocalRedis, fingerprint: str) -> Iterator[tuple[Worker, Worker]]:
    workers = Worker(shared_redis.url, fingerprint), Worker(shared_redis.url, fingerprint)
    yield workers
    for worker in workers:
        worker.embedder.gate.set()
        worker.link.close()


TEXTS = [f"the mill number {n}" for n in range(20)]


def test_texts_that_another_worker_is_embedding_are_taken_from_it(two: tuple[Worker, Worker]) -> None:
    first, second = two
    second.economics.called(1, 10.0)  # a slow model: it pays to wait
    one = first.start(TEXTS)
    eventually(lambda: first.embedder.seen)
    second.embedder.gate.set()
    other = second.start([*TEXTS[:10], "only here"])
    eventually(lambda: second.slept)  # it has embedded its own text, and waits
    assert second.embedder.seen == ["only here"]
    first.embedder.gate.set()
    assert other.vectors()[:10] == one.vectors()[:10]
    assert first.embedder.seen + second.embedder.seen == [*TEXTS, "only here"]
    assert (second.count("worker"), second.count("model"), first.count("model")) == (10, 1, 20)
    saved = second.metrics.registry.get_sample_value("headrace_embed_model_seconds_saved_total")
    assert saved is not None
    assert saved > 0


def test_texts_met_at_the_same_time_in_any_order_are_embedded_once_in_sum(two: tuple[Worker, Worker]) -> None:
    for worker in two:
        worker.embedder.gate.set()
    running = [two[0].start(TEXTS), two[1].start(TEXTS[::-1])]
    one, other = (own.vectors() for own in running)
    assert one == other[::-1]
    assert sorted(two[0].embedder.seen + two[1].embedder.seen) == sorted(TEXTS)


def test_a_worker_that_died_with_its_claims_costs_one_bounded_wait(two: tuple[Worker, Worker]) -> None:
    first, _ = two
    keys = first.vectors.keys(TEXTS)
    assert first.claims.taken(keys, None) == set()
    impatient = Worker(str(first.link.url), first.embedder.fingerprint, longest_wait_s=0.03)
    impatient.embedder.gate.set()
    assert len(impatient.start(TEXTS).vectors()) == 20
    assert impatient.embedder.seen == TEXTS
    assert sum(impatient.slept) == pytest.approx(0.03)
    impatient.link.close()


def test_a_batch_that_is_tried_again_does_not_wait_for_itself(two: tuple[Worker, Worker]) -> None:
    worker, other = two
    keys = worker.vectors.keys(TEXTS)
    assert worker.claims.taken(keys, None) == set()
    assert worker.claims.taken(keys, None) == set()
    assert other.claims.taken(keys, None) == set(keys)


def test_a_claim_that_ran_out_is_not_waited_for(two: tuple[Worker, Worker]) -> None:
    worker, other = two
    keys = worker.vectors.keys(TEXTS)
    worker.claims.taken(keys, None)
    assert other.claims.taken(keys, None) == set(keys)
    worker.link.call(lambda client: client.delete(*worker.claims._names(keys)))
    assert other.claims.wait(keys, None) == {}
    assert other.slept == []


def test_claims_live_for_seconds(two: tuple[Worker, Worker]) -> None:
    worker, _ = two
    keys = worker.vectors.keys(["x"])
    worker.claims.taken(keys, None)
    (name,) = worker.claims._names(keys)
    left_ms = worker.link.call(lambda client: client.pttl(name))
    assert left_ms is not None
    assert 0 < left_ms <= 10_000


def test_waiting_ends_when_the_model_would_have_been_done(two: tuple[Worker, Worker]) -> None:
    worker, other = two
    keys = worker.vectors.keys(TEXTS)
    worker.claims.taken(keys, None)
    assert other.claims.wait(keys, 0.025) == {}
    assert sum(other.slept) == pytest.approx(0.025)


@pytest.mark.parametrize(("alone", "model_s"), [(True, None), (True, 9.0), (False, 0.001)])
def test_nothing_is_claimed_where_it_cannot_pay(
    shared_redis: LocalRedis, fingerprint: str, alone: bool, model_s: float | None
) -> None:
    worker = Worker(shared_redis.url, fingerprint, alone=alone)
    other = Worker(shared_redis.url, fingerprint)
    keys = worker.vectors.keys(TEXTS)
    with worker.link.batch() as batch:
        assert worker.claims.taken(keys, model_s) == set()
    assert batch.calls == 0
    assert other.claims.taken(keys, None) == set()
    worker.link.close()
    other.link.close()


def test_a_redis_that_dies_while_another_embeds_costs_no_waiting(fingerprint: str) -> None:
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as server:
        first, second = Worker(server.url, fingerprint), Worker(server.url, fingerprint)
        first.claims.taken(first.vectors.keys(TEXTS), None)
        running = second.start([*TEXTS, "only here"])
        eventually(lambda: second.embedder.seen)
        server.kill()
        second.embedder.gate.set()
        assert len(running.vectors()) == 21
        assert second.embedder.seen == ["only here", *TEXTS]
        assert second.slept == []
        first.link.close()
        second.link.close()
