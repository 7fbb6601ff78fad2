"""Reading partitions of topics from one offset to another, beside the workers: without a group, nothing committed."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from app.event import Event
from app.kafka.config import librdkafka_config
from app.settings import Settings
from schemas.errors import BrokerUnavailable

_BATCH = 500
_POLL_S = 0.2
_LEAST_ANSWER_BYTES = 100_000_000  # of librdkafka; an answer of Kafka's has one record at least, however large


class TopicReader:
    """Used by one thread at a time. timeout_s: a Kafka that gives nothing for so long is unavailable. prefetch_kb: how
    much is fetched ahead.

    Every method raises BrokerUnavailable.
    """

    def __init__(self, settings: Settings, timeout_s: float, *, prefetch_kb: int = 32 * 1024) -> None:
        self._timeout_s = timeout_s
        self._consumer = Consumer(
            librdkafka_config(settings, f"{settings.collection}-audit")
            # librdkafka wants a name; nobody joins or commits to it
            | {"group.id": f"{settings.collection}-audit", "enable.auto.commit": False, "enable.partition.eof": True}
            | {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 50}
            | {"receive.message.max.bytes": max(_LEAST_ANSWER_BYTES, 2 * settings.max_record_bytes - 1)}
            | {"queued.max.messages.kbytes": prefetch_kb}
        )

    def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset there is, and the one that comes next."""
        try:
            first, end = self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=self._timeout_s, cached=False
            )
        except KafkaException as error:
            raise BrokerUnavailable(error.args[0].str()) from error
        return int(first), int(end)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 if it does not exist."""
        try:
            known = self._consumer.list_topics(topic, timeout=self._timeout_s).topics[topic]
        except KafkaException as error:
            raise BrokerUnavailable(error.args[0].str()) from error
        return len(known.partitions)

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Event]]:
        """Everything there is from `start` up to, without, `end`; some at a time, in offset order."""
        position = start
        if position >= end:
            return
        self._consumer.assign([TopicPartition(topic, partition, start)])
        try:
            waited_s = 0.0
            while position < end:
                messages = self._consumer.consume(_BATCH, timeout=_POLL_S)
                waited_s = 0.0 if messages else waited_s + _POLL_S
                if waited_s >= self._timeout_s:
                    raise BrokerUnavailable(f"{topic} gives nothing at offset {position} of partition {partition}")
                events = []
                for message in messages:
                    error = message.error()
                    if error is None and message.offset() < end:
                        events.append(_event(message))
                    elif error is not None and error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                        raise BrokerUnavailable(error.str())
                    if error is None or error.code() == KafkaError._PARTITION_EOF:
                        position = message.offset() + (error is None)
                yield events
        except KafkaException as error:
            raise BrokerUnavailable(error.args[0].str()) from error
        finally:
            self._consumer.unassign()

    def one(self, topic: str, partition: int, offset: int) -> Event | None:
        """The record at an offset; None if it was compacted away."""
        found = [event for events in self.read(topic, partition, offset, offset + 1) for event in events]
        return found[0] if found else None

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _event(message: Message) -> Event:
    return Event(
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
        timestamp_ms=message.timestamp()[1],
        consumed_ns=0,
    )
