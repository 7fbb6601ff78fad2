"""A text that ends the process while the model has it is found, whatever was beside it, and given to no model again."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from app.embed import attempts as module
from app.embed.attempts import MOST_DEATHS, Attempts
from app.embed.cache import TextCache
from app.embed.careful import CarefulEmbedder
from app.embed.economics import Economics
from app.local.redis import LocalRedis
from app.model.hashing import HashingEmbedder
from app.observe.metrics import EmbedMetrics
from app.redis_link import RedisLink
from app.settings import Settings
from schemas.errors import UnembeddableText

pytestmark = pytest.mark.redis

TEXTS = ["one", "two", "the poison", "three"]


class CountingEmbedder(HashingEmbedder):
    """calls_of: the texts of each call. error: what it raises."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(dim=16)
        self.calls_of: list[list[str]] = []
        self.error = error

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls_of.append(list(texts))
        if self.error is not None:
            raise self.error
        return super().embed(texts)


class Worker:
    """What of a worker has to do with it. now: the clock."""

    def __init__(self, url: str | None, collection: str, partition: int = 0, error: Exception | None = None) -> None:
        self.link = RedisLink(Settings(_env_file=None, redis_url=url, redis_timeout_ms=5000))
        self.now = 0.0
        vectors = TextCache(self.link, "vector", "model", 2**20, 1)
        self.attempts = Attempts(self.link, collection, vectors, lambda: self.now)
        self.attempts.locate(dict.fromkeys(TEXTS, partition))
        self.embedder = CountingEmbedder(error)
        self.careful = CarefulEmbedder(self.embedder, Economics(EmbedMetrics()), "float16", self.attempts)

    def embed(self) -> list[str]:
        """The texts that are set aside."""
        results = self.careful.embed(TEXTS)
        return [text for text, result in zip(TEXTS, results, strict=True) if isinstance(result, UnembeddableText)]

    def die_with(self, texts: list[str]) -> None:
        """As a process that ends inside the call: Redis hears no more of it."""
        with self.attempts.calling(texts):
            self.attempts._link = RedisLink(Settings(_env_file=None, redis_url=None))
        self.attempts._link = self.link
        self.attempts._over.clear()

    def counters(self, collection: str) -> int:
        found = self.link.call(lambda client: cast("list[bytes]", client.keys(f"headrace:{collection}:attempts:*")))
        assert found is not None
        return len(found)


def run(url: str, collection: str) -> subprocess.CompletedProcess[str]:
    """A process that embeds the texts, and is killed where the model has the poison."""
    program = f"from tests.contract.test_attempts import Worker; print(Worker({url!r}, {collection!r}).embed())"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"HEADRACE_CRASH_AT": "embed.in_model:1:SIGKILL:poison", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_text_that_kills_the_process_is_set_aside_alone_and_is_asked_for_no_more(shared_redis: LocalRedis) -> None:
    collection = uuid.uuid4().hex
    for _ in range(MOST_DEATHS):
        assert run(shared_redis.url, collection).returncode == -signal.SIGKILL
    for _ in range(2):
        last = run(shared_redis.url, collection)
        assert (last.returncode, last.stdout) == (0, "['the poison']\n"), last.stderr
    assert Worker(shared_redis.url, collection).counters(collection) == 1


def test_what_died_in_one_call_goes_alone_and_is_forgotten_when_that_is_survived(shared_redis: LocalRedis) -> None:
    collection = uuid.uuid4().hex
    Worker(shared_redis.url, collection).die_with(TEXTS[1:3])
    worker = Worker(shared_redis.url, collection)
    assert worker.embed() == []
    assert worker.embedder.calls_of == [["one", "three"], ["two"], ["the poison"]]
    assert worker.counters(collection) == 0


def test_a_model_that_raises_leaves_no_trace(shared_redis: LocalRedis) -> None:
    collection = uuid.uuid4().hex
    worker = Worker(shared_redis.url, collection, error=RuntimeError("no"))
    with pytest.raises(Exception, match="any text"):
        worker.embed()
    assert worker.counters(collection) == 0


def test_other_partitions_and_collections_know_nothing_of_it(shared_redis: LocalRedis) -> None:
    collection = uuid.uuid4().hex
    for _ in range(MOST_DEATHS):
        Worker(shared_redis.url, collection).die_with(TEXTS)
    assert Worker(shared_redis.url, collection).embed() == TEXTS
    assert Worker(shared_redis.url, collection, partition=1).embed() == []
    assert Worker(shared_redis.url, uuid.uuid4().hex).embed() == []


def test_a_worker_that_has_run_for_a_while_neither_counts_nor_asks(shared_redis: LocalRedis) -> None:
    collection = uuid.uuid4().hex
    worker = Worker(shared_redis.url, collection)
    worker.now = module._CAREFUL_S
    worker.die_with(TEXTS)
    assert worker.counters(collection) == 0
    assert worker.embed() == []
    assert worker.embedder.calls_of == [TEXTS]


def test_a_counter_that_redis_did_not_delete_goes_with_the_next_call(shared_redis: LocalRedis) -> None:
    collection = uuid.uuid4().hex
    worker = Worker(shared_redis.url, collection)
    with worker.attempts.calling(TEXTS):
        worker.link._closed_until = worker.link._clock() + 1000
    worker.link._closed_until = 0.0
    assert worker.counters(collection) == len(TEXTS)
    worker.now = module._CAREFUL_S
    with worker.attempts.calling(["other"]):
        pass
    assert worker.counters(collection) == 0


class Link:
    """A Redis that counts calls. state: `ok`, `silent` (nobody knows what it did), `left alone` (it was not asked)."""

    def __init__(self, state: str = "ok") -> None:
        self.url, self.failures, self.state = "redis://", 0, state
        self.unlinked: list[int] = []  # how many names at a time

    def call(self, action: Callable[[Any], object]) -> object:
        if self.state != "ok":
            self.failures += self.state == "silent"
            return None
        return action(self)

    def eval(self, *_: object) -> int:
        return 1

    def unlink(self, *names: bytes) -> int:
        self.unlinked.append(len(names))
        return 0


def called(link: Link, times: int, texts: int = 100) -> Attempts:
    """One whose model got other texts each time."""
    attempts = Attempts(cast("RedisLink", link), "c", TextCache(cast("RedisLink", link), "vector", "m", 2**20, 1))
    for number in range(times):
        with attempts.calling([f"text {number} {other}" for other in range(texts)]):
            pass
    return attempts


def back(attempts: Attempts, link: Link) -> list[int]:
    """What is deleted once Redis is back."""
    link.state = "ok"
    link.unlinked.clear()
    with attempts.calling(["one more"]):
        pass
    return link.unlinked


def test_while_redis_is_left_alone_nothing_piles_up_that_it_was_never_told() -> None:
    link = Link("left alone")
    assert back(called(link, 10), link) == [1]


def test_what_a_silent_redis_may_have_counted_is_deleted_in_slices_and_no_more_than_a_bound() -> None:
    link = Link("silent")
    assert back(called(link, 6), link) == [512, 89]
    link = Link("silent")
    deleted = back(called(link, 300), link)
    assert (max(deleted), sum(deleted)) == (512, module._MOST_OVER)


def test_without_redis_nothing_is_asked_or_kept() -> None:
    link = Link()
    link.url = ""
    attempts = called(link, 10)
    assert (attempts.careful, link.unlinked) == (False, [])
    link.url = "redis://"
    assert back(attempts, link) == [1]


def test_without_redis_everything_is_embedded() -> None:
    worker = Worker(None, "c")
    worker.die_with(TEXTS)
    assert worker.embed() == []
