"""The broker inside librdkafka: a Kafka for demos that needs nothing but the client library."""

from __future__ import annotations

from types import TracebackType

from confluent_kafka import KafkaException, Producer

from schemas.errors import ServiceMissing

# Fixed in librdkafka (rdkafka_mock.c): there is no setting for either.
PARTITIONS = 4
PARTITION_BYTES = 5 * 2**20

# A docstring takes about 2 kB of the vectors topic (text, and a vector of 384 float16 per chunk) and a third of that of
# the changes topic, so the vectors fill first. Two thirds of what fits, as partitions are uneven and edits follow.
HOLDS_DOCUMENTS = PARTITIONS * PARTITION_BYTES // 2000 * 2 // 3


class EmbeddedBroker:
    """Runs from its construction until `close`, in this process, on a loopback port of its own choice: `address`.

    Everything is in memory. Topics come into being when first used, always with PARTITIONS partitions; each
    partition keeps its last PARTITION_BYTES of records and drops the oldest without a word, read or unread. There
    is no topic administration, no compaction and no security.
    """

    def __init__(self) -> None:
        # log_level 2 (critical): librdkafka otherwise announces at each start that bootstrap.servers is ignored
        self._producer = Producer({"bootstrap.servers": "embedded", "test.mock.num.brokers": 1, "log_level": 2})
        try:
            broker = next(iter(self._producer.list_topics(timeout=10).brokers.values()))
        except (KafkaException, StopIteration) as error:
            raise ServiceMissing(f"librdkafka's embedded broker did not start: {error}") from error
        self.address = f"{broker.host}:{broker.port}"

    def close(self) -> None:
        """Stop the broker and forget every record."""
        del self._producer

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
