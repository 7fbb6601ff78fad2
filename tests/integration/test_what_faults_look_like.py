"""The table "What a fault looks like" of docs/freshness.md, row by row: what an answer and /status say meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis, find_redis_server
from tests.services_local import eventually, kafka_or_skip, redis_or_skip
from tests.stack import Stack, unique

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

FRESH_MS = 2_500  # a watermark a second, and a busy machine
STALE_MS = 4_000
SESSION_MS = 3000


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A Kafka to be killed, and started again."""
    with LocalKafka(tmp_path_factory.mktemp("kafka"), home=kafka_or_skip()) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def redis() -> Iterator[LocalRedis]:
    """A Redis to be killed, and started again."""
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as redis:
        yield redis


@pytest.fixture(scope="module")
def only_stack(tmp_path_factory: pytest.TempPathFactory, kafka: LocalKafka, redis: LocalRedis) -> Iterator[Stack]:
    """One index worker, two embed workers of which the second is not started, a gateway."""
    made = Stack(
        tmp_path_factory.mktemp("stack"),
        kafka.address,
        redis.url,
        runtime="hashing",
        partitions=2,
        session_timeout_ms=SESSION_MS,
    )
    with made as stack:
        stack.create_topics()
        stack.add_embed("embed-b")
        stack.start("embed", "index", "search")
        word = unique("known")
        stack.search(word, stack.publish_all({f"{word}-{number}": f"{word} {number}" for number in range(8)}))
        yield stack


@pytest.fixture
def stack(only_stack: Stack) -> Stack:
    """As it was at first: every test leaves it so, once it is fresh again."""
    for role in ("embed", "index"):
        if not only_stack.role(role).running:
            only_stack.start(role)
    if only_stack.role("embed-b").running:
        only_stack.stop("embed-b")
    eventually(lambda: fresh(only_stack), within_s=40)
    return only_stack


def staleness(stack: Stack) -> dict[str, int]:
    """By shard, as a search tells it. The answer must be whole, and as stale as its stalest shard."""
    answer = stack.search("known")
    assert answer["partial"] is False, answer["missing_shards"]
    told = {shard: said["staleness_ms"] for shard, said in answer["freshness"]["shards"].items()}
    assert answer["freshness"]["staleness_ms"] == max(told.values())
    return told


def fresh(stack: Stack) -> bool:
    return max(staleness(stack).values()) < FRESH_MS


def stale_everywhere(stack: Stack) -> bool:
    return min(staleness(stack).values()) > STALE_MS


def for_a_while(holds: Callable[[], bool], seconds: float = 3) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert holds()
        time.sleep(0.1)


def last_changes(stack: Stack) -> list[float]:
    """When a change last became visible, by shard."""
    gauges = stack.metrics("index")
    return [gauges[f'headrace_shard_last_change_timestamp_seconds{{shard="{shard}"}}'] for shard in range(2)]


def test_idle_or_with_a_dead_producer_answers_are_fresh_and_the_last_change_stands(stack: Stack) -> None:
    before = last_changes(stack)
    for_a_while(lambda: fresh(stack))
    assert last_changes(stack) == before
    assert min(before) > 0


def test_without_an_embed_worker_every_shard_grows_stale_until_there_is_one(stack: Stack) -> None:
    stack.send("embed", signal.SIGSTOP)
    eventually(lambda: stale_everywhere(stack), within_s=20)
    at = stack.publish("late", "Published while nobody embeds.")
    demand = {"query": "late", "min_offsets": {str(at.partition): at.offset}, "timeout_ms": 200}
    assert stack.post(demand)[0] == 504
    assert stack.post({"query": "late", "max_staleness_ms": 500, "timeout_ms": 200})[0] == 504
    assert stack.readyz("search")[0] == 200

    stack.kill("embed")
    eventually(lambda: stack.status()["embed_workers"] == [], within_s=20)  # its entry expires
    assert stale_everywhere(stack)
    stack.start("embed-b")
    eventually(lambda: fresh(stack), within_s=30)
    assert "late" in stack.hits("Published while nobody embeds.", at)


def test_another_embed_worker_takes_over_and_the_shards_of_the_dead_one_are_fresh_again(stack: Stack) -> None:
    stack.start("embed-b")
    eventually(lambda: fresh(stack) and len(stack.status()["embed_workers"]) == 2, within_s=30)
    stack.send("embed", signal.SIGSTOP)
    eventually(lambda: max(staleness(stack).values()) > FRESH_MS, within_s=20)
    eventually(lambda: fresh(stack), within_s=30)
    stack.kill("embed")


def test_without_redis_answers_stay_fresh_and_say_that_it_is_away(stack: Stack, redis: LocalRedis) -> None:
    redis.kill()
    eventually(lambda: stack.status()["services"]["redis"] == "unavailable", within_s=20)
    for_a_while(lambda: fresh(stack))
    assert stack.status()["embed_workers"] is None
    at = stack.publish("no-redis", "Published without a Redis.")
    assert "no-redis" in stack.hits("Published without a Redis.", at)
    redis.start()


def test_without_kafka_every_shard_grows_stale_and_the_workers_say_why(stack: Stack, kafka: LocalKafka) -> None:
    kafka.kill()
    eventually(lambda: stale_everywhere(stack), within_s=20)
    for role in ("embed", "index"):
        eventually(lambda role=role: stack.readyz(role)[0] == 503, within_s=20)
        assert "does not answer" in stack.readyz(role)[1]["reason"]
    kafka.start()
    eventually(lambda: fresh(stack), within_s=40)


def test_an_index_worker_that_is_alone_and_dead_is_an_error_and_a_replica_answers_for_it(stack: Stack) -> None:
    stack.add_index("index-b", stack.folder / "data-b", replica="b")
    stack.start("index-b")
    eventually(lambda: len(stack.status()["shards"]) == 4 and fresh(stack), within_s=30)
    stack.kill("index")
    eventually(lambda: fresh(stack), within_s=20)
    at = stack.publish("one-replica", "Published for one replica.")
    stack.search("Published for one replica.", at)
    stack.kill("index-b")
    eventually(lambda: stack.post({"query": "known"})[0] == 503, within_s=20)
    assert stack.post({"query": "known", "max_staleness_ms": 500, "timeout_ms": 200})[0] in (503, 504)
