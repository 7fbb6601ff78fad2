"""The embedded broker serves a client, and is gone after close."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition

from app.local.broker import PARTITION_BYTES, PARTITIONS, EmbeddedBroker
from app.local.process import listens


def test_records_come_back_from_topics_that_nobody_created() -> None:
    with EmbeddedBroker() as broker:
        producer = Producer({"bootstrap.servers": broker.address, "enable.idempotence": True, "log_level": 2})
        producer.produce("documents.changes", key=b"k", value=None, partition=PARTITIONS - 1)
        assert producer.flush(10) == 0
        metadata = producer.list_topics("documents.changes", timeout=10)
        assert len(metadata.topics["documents.changes"].partitions) == PARTITIONS

        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "g", "log_level": 2})
        consumer.assign([TopicPartition("documents.changes", PARTITIONS - 1, 0)])
        message = consumer.poll(10)
        consumer.close()

        assert message is not None
        assert (message.key(), message.value()) == (b"k", None)


def test_the_oldest_records_of_a_partition_are_dropped_beyond_its_size() -> None:
    with EmbeddedBroker() as broker:
        producer = Producer({"bootstrap.servers": broker.address, "log_level": 2, "compression.type": "none"})
        for _ in range(200):
            producer.produce("t", value=b"x" * 100_000, partition=0)
            producer.poll(0)
        assert producer.flush(10) == 0
        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "g", "log_level": 2})
        first, end = consumer.get_watermark_offsets(TopicPartition("t", 0), timeout=10)
        consumer.close()

        assert end == 200
        assert (end - first) * 100_000 <= PARTITION_BYTES + 1_000_000


def test_nothing_listens_after_close() -> None:
    broker = EmbeddedBroker()
    host, _, port = broker.address.partition(":")
    assert listens(host, int(port))

    broker.close()

    assert not listens(host, int(port))
