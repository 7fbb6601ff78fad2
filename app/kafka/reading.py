"""Reading topics from here to there and then ending, beside the workers: no group is joined, no offset committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from operator import methodcaller
from types import TracebackType

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from app.event import Event
from app.kafka.config import librdkafka_config
from app.settings import Settings
from schemas.errors import BrokerUnavailable, RecordUnreadable, ServiceMissing, TopicsWrong

TIMEOUT_S = 10.0
SILENCE_S = 30.0  # as long as librdkafka takes to find a new leader, with room
PREFETCH_KB = 32 * 1024
_BATCH = 500
_POLL_S = 0.2  # how soon a Ctrl-C is seen
_LARGEST_ANSWER_BYTES = 2**31 - 1  # as much as librdkafka allows
_DAMAGED = (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED, KafkaError.INVALID_MSG)

# confluent-kafka returns a list and sets an error where a name is not UTF-8; called directly, in a loop that Python has
# specialised, the error comes up anywhere later, and a null pointer in the list ends the process
_HEADERS = methodcaller("headers")

Span = tuple[int, int]  # first offset, and the one after the last
Advance = Callable[[int], None]


class TopicReader:
    """A context manager, used by one thread at a time. Every method raises BrokerUnavailable if Kafka falls silent.

    silence_s: how long it may be silent. prefetch_kb: how much is fetched ahead.
    """

    def __init__(
        self, settings: Settings, client_id: str, *, silence_s: float = SILENCE_S, prefetch_kb: int = PREFETCH_KB
    ) -> None:
        self._settings = settings
        self._silence_s = silence_s
        self._consumer = Consumer(
            librdkafka_config(settings, client_id)
            | {
                "group.id": client_id,  # librdkafka wants one; without subscribing or committing Kafka never sees it
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "check.crcs": True,  # by default a damaged record is taken for what was written
                "enable.partition.eof": True,  # the last offsets may be gone by compaction, or hold no record
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": prefetch_kb,
                "max.partition.fetch.bytes": min(2**20, prefetch_kb * 1024),
                "receive.message.max.bytes": min(10**8 + settings.max_record_bytes, _LARGEST_ANSWER_BYTES),
            }
        )

    def spans(self, topic: str) -> dict[int, Span]:
        """What every partition holds now. Raises ServiceMissing without Kafka, TopicsWrong without the topic."""
        try:
            told = self._consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
        except KafkaException as error:
            raise ServiceMissing(
                f"no Kafka at {self._settings.brokers} (HEADRACE_BROKERS): {error.args[0].str()}. "
                "Start one, or `headrace up`."
            ) from error
        if told.error is not None:
            raise TopicsWrong(
                f"topic {topic} cannot be read: {told.error.str()}. See what there is: headrace topics describe "
                f"--collection {self._settings.collection} --brokers {self._settings.brokers}"
            )
        return {partition: self.span(topic, partition) for partition in sorted(told.partitions)}

    def read(
        self, topic: str, spans: Mapping[int, Span], advance: Advance | None = None, *, only_first: bool = False
    ) -> Iterator[Event]:
        """The records of the spans, in offset order per partition; then it ends, whatever has come since.

        advance: told how many offsets have been passed. only_first: of each span, no more than its first record.
        Raises RecordUnreadable.
        """
        position = {partition: first for partition, (first, end) in spans.items() if first < end}
        begun = [TopicPartition(topic, partition, first) for partition, first in position.items()]
        self._consumer.assign(begun)
        try:
            heard = time.monotonic()
            while position:
                head = self._consumer.poll(_POLL_S)  # `consume` would wait for the whole batch
                messages = [] if head is None else [head, *self._consumer.consume(_BATCH, timeout=0)]
                if messages:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self._silence_s:
                    raise BrokerUnavailable(f"{topic}: nothing came for {self._silence_s:.0f} s")
                for message in messages:
                    yield from self._taken(topic, message, spans, position, advance, only_first=only_first)
        finally:
            # a pause outlives its assignment
            self._consumer.resume(begun)
            self._consumer.unassign()

    def one(self, topic: str, partition: int, offset: int) -> Event | None:
        """The record at an offset; None if it was compacted away."""
        return next(iter(list(self.read(topic, {partition: (offset, offset + 1)}))), None)

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def offsets_at(self, topic: str, partitions: Mapping[int, Span], at_ms: int) -> dict[int, int]:
        """By partition, the offset of the first record at or after the time; its end where there is none."""
        asked = [TopicPartition(topic, partition, at_ms) for partition in partitions]
        try:
            found = self._consumer.offsets_for_times(asked, timeout=TIMEOUT_S)
        except KafkaException as error:
            raise BrokerUnavailable(error.args[0].str()) from error
        return {
            place.partition: place.offset if place.offset >= 0 else partitions[place.partition][1] for place in found
        }

    def span(self, topic: str, partition: int) -> Span:
        """What a partition holds now."""
        place = TopicPartition(topic, partition)
        try:
            first, end = self._consumer.get_watermark_offsets(place, timeout=min(TIMEOUT_S, self._silence_s))
        except KafkaException as error:
            raise BrokerUnavailable(error.args[0].str()) from error
        return first, end

    def _taken(
        self,
        topic: str,
        message: Message,
        spans: Mapping[int, Span],
        position: dict[int, int],
        advance: Advance | None,
        *,
        only_first: bool,
    ) -> Iterator[Event]:
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None and error.code() in _DAMAGED:
            raise RecordUnreadable(topic, partition, error.str())
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise BrokerUnavailable(f"{topic}: {error.str()}")
        if partition not in position:
            return  # it was fetched before the pause
        end = spans[partition][1]
        reached = end if error is not None or only_first else min(offset + 1, end)
        if error is None and offset < end:
            yield _event(message)
        if advance is not None:
            advance(reached - position[partition])
        position[partition] = reached
        if reached >= end:
            del position[partition]
            self._consumer.pause([TopicPartition(topic, partition)])


def _event(message: Message) -> Event:
    return Event(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        _headers(message),
        message.timestamp()[1],
        time.time_ns(),
    )


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    """None at all where a name is not UTF-8. Never ask for them twice: the null pointer would come out."""
    try:
        return _HEADERS(message) or []
    except SystemError:
        return []
