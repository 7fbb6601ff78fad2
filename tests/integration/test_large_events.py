"""An event larger than one fetch of a partition is read as any other."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from tests.conftest import MakeStack
from tests.documents import Documents

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

FETCH_BYTES = 4 * 2**20  # consumer_max_fetch_size in consumers/faust_app.py


def test_an_event_larger_than_a_fetch_becomes_a_dead_letter_and_the_next_one_is_found(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    size_bytes = FETCH_BYTES + 2**20
    stack = make_stack(
        shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1, max_record_bytes=2 * size_bytes
    )
    producer = Producer({"bootstrap.servers": stack.settings.brokers, "message.max.bytes": 2 * size_bytes})
    producer.produce(stack.settings.changes_topic, b"x" * size_bytes, b"large")
    assert producer.flush(30) == 0
    documents = Documents(stack)
    documents.upsert("after", "what comes after it")
    stack.start()
    documents.assert_found()
    (letter,) = stack.dead_letters(1)
    assert (letter.key(), len(letter.value())) == (b"large", size_bytes)
