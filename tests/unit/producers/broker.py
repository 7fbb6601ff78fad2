"""librdkafka's in-process mock cluster, and reading back what was published to it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from app.settings import Settings
from schemas.document_change import DocumentChange, decode_change

MOCK_PARTITIONS = 4


class MockBroker:
    """Keep it: the broker lives as long as this object."""

    def __init__(self) -> None:
        self._cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
        (broker,) = self._cluster.list_topics(timeout=10).brokers.values()
        self.address = f"{broker.host}:{broker.port}"

    def settings(self, **changed: object) -> Settings:
        """Settings with a collection that no other test uses."""
        given = {"brokers": self.address, "collection": f"c{uuid.uuid4().hex[:12]}", "embedded_broker_id": "test"}
        return Settings(_env_file=None, **(given | changed))


@dataclass(frozen=True)
class Published:
    """One record as read back."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]

    @property
    def change(self) -> DocumentChange:
        return decode_change(self.key, self.value)


def read_topic(settings: Settings, count: int, within_s: float = 20) -> list[Published]:
    """`count` records of the changes topic, in the order of each partition."""
    consumer = Consumer(
        {"bootstrap.servers": settings.brokers, "group.id": uuid.uuid4().hex, "log_level": 0, "fetch.wait.max.ms": 20}
    )
    try:
        consumer.assign([TopicPartition(settings.changes_topic, partition, 0) for partition in range(MOCK_PARTITIONS)])
        found: list[Published] = []
        deadline = time.monotonic() + within_s
        while len(found) < count and time.monotonic() < deadline:
            found += [_published(message) for message in consumer.consume(count - len(found), timeout=0.1)]
        assert len(found) == count, f"{len(found)} of {count} records"
        return found
    finally:
        consumer.close()


def changes(settings: Settings, count: int) -> dict[str, DocumentChange]:
    """The last change of each id among `count` records."""
    return {published.change.id: published.change for published in read_topic(settings, count)}


def eventually(predicate: Callable[[], bool], within_s: float = 20) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + within_s
    while not predicate():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def _published(message: Message) -> Published:
    assert message.error() is None, message.error()
    headers = dict(message.headers() or [])
    return Published(message.partition(), message.offset(), message.key(), message.value(), headers)
