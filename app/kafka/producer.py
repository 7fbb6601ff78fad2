"""One idempotent producer with awaited delivery, for the embed worker and for applications.

confluent-kafka's `produce` only queues; what became of a record is told to a callback, and a full queue raises.
Here every record ends in a Position or an error that somebody holds, and a full queue is back-pressure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from app.crash import crash_point
from app.kafka.config import librdkafka_config
from app.settings import Settings
from schemas.errors import BrokerUnavailable, Rejected, SettingsError

MOST_BYTES = 1_000_000_000  # as much as librdkafka allows
_NOT_THERE = (KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART)
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)


@dataclass(frozen=True, slots=True)
class Record:
    """One record to produce. partition None: by hash of the key, as Java's client does it."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Sequence[tuple[str, bytes | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record was written: the token for read-your-own-write."""

    topic: str
    partition: int
    offset: int


Delivered = Callable[[Position | None, Exception | None], None]


class RecordProducer:
    """Thread-safe. Close it: `close` waits for what is under way.

    linger_ms: how long librdkafka waits for a batch to fill; 0 for latency, its default 5 for bulk.
    delivery_timeout_ms: a record not confirmed by then fails with BrokerUnavailable. max_bytes: a record larger than
    this, before compression, is refused here already; default `max_record_bytes`.
    """

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        *,
        linger_ms: float = 0,
        delivery_timeout_ms: int = 120_000,
        max_bytes: int | None = None,
    ) -> None:
        self._producer = _producer(
            librdkafka_config(settings, client_id)
            | {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": linger_ms,
                # Java's partitioner: the default of librdkafka would send a key elsewhere than other clients do
                "partitioner": "murmur2_random",
                "message.max.bytes": max_bytes or settings.max_record_bytes,
                "delivery.timeout.ms": delivery_timeout_ms,
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 256 * 1024,
                "compression.type": "none" if settings.embedded_broker_id else "lz4",
            }
        )
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name=f"{client_id}-delivery", daemon=True)
        self._poller.start()

    def connect(self, timeout_s: float) -> int:
        """Ask for metadata: fails early, and saves the first record 0.5-1 s. Returns the number of brokers.

        Raises BrokerUnavailable.
        """
        try:
            return len(self._producer.list_topics(timeout=timeout_s).brokers)
        except KafkaException as error:
            raise BrokerUnavailable(str(error.args[0].str())) from error

    def produce(self, record: Record, delivered: Delivered) -> None:
        """Queue one record; blocks while the queue is full. `delivered` is called from another thread."""

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                delivered(Position(record.topic, message.partition(), message.offset()), None)
            else:
                delivered(None, _translated(record.topic, error))

        arguments: dict[str, Any] = {
            "key": record.key,
            "value": record.value,
            "headers": list(record.headers),
        }
        if record.partition is not None:
            arguments["partition"] = record.partition
        while True:
            try:
                self._producer.produce(record.topic, on_delivery=report, **arguments)
            except BufferError:
                time.sleep(0.005)  # the poller is emptying the queue
            except KafkaException as error:
                return delivered(None, _translated(record.topic, error.args[0]))
            else:
                return None

    def deliver(self, records: Sequence[Record]) -> Future[list[Position]]:
        """Queue records in order; the future has all positions once every record is confirmed.

        The future fails with the first error, Rejected (a record is too large) before BrokerUnavailable, when
        all have been answered: after that none is under way any more.
        """
        batch = _Batch(len(records))
        for index, record in enumerate(records):
            self.produce(record, partial(batch.settle, index))
        return batch.done

    def flush(self, timeout_s: float) -> int:
        """Wait for what is under way; returns how many records are still unconfirmed."""
        return int(self._producer.flush(timeout_s))

    def close(self, timeout_s: float = 5) -> int:
        """Flush, give up what is not confirmed by then (it fails with BrokerUnavailable), stop.

        Returns how many records were given up.
        """
        left = self.flush(timeout_s)
        self._producer.purge()
        self._producer.poll(0)  # the reports of what was given up
        self._closed.set()
        self._poller.join(timeout=1)
        return left

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(0.1)
            crash_point("kafka.reported")


class _Batch:
    """Collects the delivery reports of some records; they come from the poller or from `produce` itself."""

    def __init__(self, count: int) -> None:
        self.done: Future[list[Position]] = Future()
        self.done.set_running_or_notify_cancel()  # a cancelled future would raise in the poller and end it
        self._positions: list[Position | None] = [None] * count
        self._errors: list[Exception] = []
        self._left = count
        self._lock = threading.Lock()
        if count == 0:
            self.done.set_result([])

    def settle(self, index: int, position: Position | None, error: Exception | None) -> None:
        with self._lock:
            self._positions[index] = position
            if error is not None:
                self._errors.append(error)
            self._left -= 1
            if self._left:
                return
        if self._errors:
            self.done.set_exception(
                next((error for error in self._errors if isinstance(error, Rejected)), self._errors[0])
            )
        else:
            self.done.set_result([position for position in self._positions if position is not None])


def _producer(config: dict[str, Any]) -> Producer:
    try:
        return Producer(config)
    except KafkaException as error:  # a certificate that is not there, say
        raise SettingsError(f"the settings of Kafka do not work: {error.args[0].str()}") from error


def _translated(topic: str, error: KafkaError) -> Exception:
    if error.code() in _TOO_LARGE:
        return Rejected(f"the record is larger than the topic {topic} allows: {error.str()}")
    if error.code() in _NOT_THERE:
        return BrokerUnavailable(
            f"topic {topic} or the partition is not there ({error.str()}): headrace topics create makes what "
            "is missing and checks the rest"
        )
    return BrokerUnavailable(error.str())
