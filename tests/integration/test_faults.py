"""Real Kafka and Redis, and processes that are killed in the middle of the work: nothing lost, everything once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis, find_redis_server
from producers import Position
from tests.conftest import MakeStack
from tests.services_local import eventually, kafka_or_skip, redis_or_skip
from tests.stack import Stack, unique

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

BATCH = 8  # documents; small, so that a kill comes between batches and inside of one


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A Kafka to be killed."""
    with LocalKafka(tmp_path / "kafka", home=kafka_or_skip()) as kafka:
        yield kafka


@pytest.fixture
def redis() -> Iterator[LocalRedis]:
    """A Redis to be killed."""
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as redis:
        yield redis


def stream(stack: Stack, count: int = 300) -> tuple[set[str], list[Position]]:
    """Publish documents; confirmed, not yet indexed. Their ids and positions."""
    word = unique("stream")
    texts = {f"{word}-{number}": f"Document {number} in the stream {word}." for number in range(count)}
    return set(texts), stack.publish_all(texts)


def assert_whole(stack: Stack, ids: set[str], positions: list[Position]) -> None:
    """Every document is found, once, and nothing else is."""
    assert set(stack.hits("document in the stream", positions, k=1000, timeout_ms=60_000)) == ids
    eventually(lambda: stack.status()["documents"] == len(ids))
    assert all(stack.document(id) is not None for id in sorted(ids)[::17])


def written_documents(stack: Stack) -> int:
    """How many documents were written to the vectors topic."""
    consumer = Consumer({"bootstrap.servers": stack.settings.brokers, "group.id": unique("count"), "log_level": 0})
    count = 0
    try:
        for partition in range(stack.settings.partitions):
            place = TopicPartition(stack.settings.vectors_topic, partition, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=10)
            consumer.assign([place])
            reached = 0
            deadline = time.monotonic() + 30
            while reached < end:
                assert time.monotonic() < deadline
                for message in consumer.consume(500, timeout=0.2):
                    reached = message.offset() + 1
                    count += dict(message.headers())["headrace-kind"] == b"document"
    finally:
        consumer.close()
    return count


def embedded_count(stack: Stack) -> float:
    """Documents that the embed worker has dealt with since its start."""
    return stack.metrics("embed")['headrace_embed_events_total{outcome="embed"}']


def indexed_count(stack: Stack) -> float:
    """Documents that the index worker has applied since its start."""
    return stack.metrics("index")['headrace_index_records_total{outcome="upsert"}']


@pytest.mark.model
def test_embed_killed_in_the_middle_of_a_stream_loses_nothing_and_repeats_one_batch_at_most(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis, default_model: str
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, batch_max_documents=BATCH, model=default_model)
    stack.start()
    ids, positions = stream(stack)
    eventually(lambda: embedded_count(stack) >= 3 * BATCH, within_s=30)

    stack.kill("embed")
    indexed = indexed_count(stack)
    stack.start("embed")

    assert indexed < len(ids), "it was too quick to be killed in the middle"
    assert_whole(stack, ids, positions)
    assert written_documents(stack) <= len(ids) + BATCH
    assert stack.model_chunks() <= len(ids) - 2 * BATCH


@pytest.mark.model
def test_index_killed_in_the_middle_of_a_stream_loses_nothing_and_needs_no_model(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis, default_model: str
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, batch_max_documents=BATCH, model=default_model)
    stack.start()
    ids, positions = stream(stack)
    eventually(lambda: indexed_count(stack) >= 3 * BATCH, within_s=30)

    stack.kill("index")
    before = embedded_count(stack)
    stack.start("index")

    assert before < len(ids), "it was too quick to be killed in the middle"
    assert_whole(stack, ids, positions)
    assert written_documents(stack) == len(ids)
    assert stack.model_chunks() == len(ids)


def test_a_role_killed_again_and_again_still_gets_everything_done(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", batch_max_documents=BATCH)
    stack.start()
    ids, positions = set[str](), list[Position]()
    for role in ("embed", "index", "embed"):
        more, places = stream(stack, 100)
        ids |= more
        positions += places
        stack.kill(role)
        stack.launch(role)

    stack.wait_ready()
    assert_whole(stack, ids, positions)


def test_kafka_killed_in_the_middle_of_a_stream_is_waited_for_and_nothing_is_lost(
    make_stack: MakeStack, kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(kafka.address, shared_redis.url, runtime="hashing", batch_max_documents=BATCH)
    stack.start()
    ids, positions = stream(stack)
    eventually(lambda: indexed_count(stack) > 0, within_s=30)
    cut = {unique("cut"): "A document in the stream that is cut." for _ in range(100)}
    under_way = [stack.publisher.upsert(id, text) for id, text in cut.items()]

    kafka.kill()
    for role in ("embed", "index"):
        eventually(lambda role=role: stack.readyz(role)[0] == 503, within_s=30)
        assert stack.readyz(role)[1]["services"]["kafka"] == "unavailable"
    assert stack.search("document", k=1)["hits"], "what is indexed can be found all the same"
    kafka.start()

    positions += [future.result(60) for future in under_way]
    stack.wait_ready("embed", "index")
    assert_whole(stack, ids | set(cut), positions)
    assert stack.readyz("embed")[1]["services"]["kafka"] == "ok"


def test_sigterm_while_kafka_is_gone_ends_each_worker_in_time(
    make_stack: MakeStack, kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(kafka.address, shared_redis.url, runtime="hashing")
    stack.start()
    stack.search("document", stream(stack, 50)[1])

    kafka.kill()
    eventually(lambda: stack.readyz("embed")[0] == 503 and stack.readyz("index")[0] == 503, within_s=30)

    stack.stop("search", "index", "embed", within_s=15)


def test_without_redis_answers_stay_right_and_when_it_is_back_it_is_used_again(
    make_stack: MakeStack, shared_kafka: LocalKafka, redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, redis.url, runtime="hashing")
    stack.start()
    edited, deleted = unique("doc"), unique("doc")
    stack.search("old", [stack.publish(edited, "Old text."), stack.publish(deleted, "Short life.")])

    redis.kill()
    positions = [stack.publish(edited, "New text."), stack.delete(deleted)]

    hits = stack.hits("text", positions, k=1000)
    assert hits[edited]["text"] == "New text."
    assert deleted not in hits
    for role in ("embed", "index", "search"):
        eventually(lambda role=role: stack.readyz(role)[1]["services"]["redis"] == "unavailable")
        assert stack.readyz(role)[0] == 200, role
    assert stack.status()["services"]["redis"] == "unavailable"

    redis.start()

    def is_used() -> bool:
        stack.publish(edited, f"Newer text {unique('')}.")
        return all(stack.readyz(role)[1]["services"]["redis"] == "ok" for role in ("embed", "index", "search"))

    eventually(is_used, within_s=40)
    stack.search("text", stack.publish(edited, "New text."))
    calls, position = stack.model_calls(), stack.publish(edited, "New text.")
    assert stack.hits("text", position)[edited]["text"] == "New text."
    assert stack.model_calls() == calls, "Redis knows what was applied last"


def test_with_one_of_two_index_workers_killed_the_answer_is_partial_and_the_other_takes_over(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", session_timeout_ms=6000)
    stack.add_index("index-b", stack.folder / "data-b")
    stack.start()
    url = stack.role("index-b").url

    def shards_of(worker: str) -> set[str]:
        return {str(shard["shard"]) for shard in stack.status()["shards"] if shard["worker"] == worker}

    eventually(lambda: len(shards_of(url)) == 2, within_s=30)
    ids, positions = stream(stack, 100)
    assert_whole(stack, ids, positions)
    lost = shards_of(url)

    stack.kill("index-b")

    answer = stack.search("document in the stream", k=1000)
    assert answer["partial"] is True
    assert set(answer["missing_shards"]) == lost
    assert set(answer["freshness"]["shards"]) == {"0", "1", "2", "3"} - lost
    assert {hit["id"] for hit in answer["hits"]} == {
        id
        for id, position in zip(sorted(ids, key=number), positions, strict=True)
        if str(position.partition) not in lost
    }
    status, body = stack.readyz("search")
    assert status == 503
    assert all(f"shard {shard}" in body["reason"] for shard in lost)
    eventually(lambda: not stack.search("document")["partial"], within_s=30)
    assert_whole(stack, ids, positions)


def number(id: str) -> int:
    """The place in the stream of a document."""
    return int(id.rpartition("-")[2])
