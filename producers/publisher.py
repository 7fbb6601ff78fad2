"""DocumentPublisher: document changes to Kafka from Python, each answered with where it was written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.kafka.config import librdkafka_config
from app.kafka.producer import Delivered, Position, Record, RecordProducer
from app.observe.tracing import Tracing, trace_id_of
from app.settings import Settings, load_settings
from producers.spans import SendSpans, finish
from schemas.document_change import DocumentChange, parse_change
from schemas.errors import BrokerUnavailable, Rejected, TopicsWrong

CLIENT_ID = "headrace-publish"
PRODUCED_HEADER = "headrace-produced"
_GIVE_UP_S = 5.0  # how long leaving the `with` block by an exception waits for what is under way

log = logging.getLogger(__name__)


class Delivery(Future[Position]):
    """What becomes of one change: see `DocumentPublisher.publish`. trace_id: of its trace, 32 hex digits."""

    trace_id: str = ""


class DocumentPublisher:
    """Publishes document changes and says where each was written. Thread-safe; close it, or use `with`.

    The position of a change is a token: a search that is given `{position.partition: position.offset}` as
    `min_offsets` waits until the index has applied that change; `min_offsets(positions)` makes it of many::

        with DocumentPublisher() as publisher:
            publisher.connect()
            done = [publisher.upsert(f"doc-{i}", text) for i, text in enumerate(texts)]
            wanted = min_offsets(future.result() for future in done)   # {"0": 41, "1": 17}

    Deliveries are idempotent and confirmed by all in-sync replicas. Changes of one id keep their order.
    A call only queues, and blocks while 100,000 changes or 256 MiB are under way: from asyncio call it in a thread
    where that can happen, and await `asyncio.wrap_future(future)`. A delivery that fails is logged as well, for
    callers that drop the future.

    settings: default `load_settings()`. tracing: spans for the documents it wants; not closed here.
    linger_ms: how long a change waits for others to share its request; 0 for latency, 5 for bulk.
    delivery_timeout_ms: a change that is not confirmed by then fails with BrokerUnavailable.
    Raises SettingsError if Kafka's client refuses the settings. Does not connect: `connect` does.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        tracing: Tracing | None = None,
        linger_ms: float = 0,
        delivery_timeout_ms: int = 120_000,
    ) -> None:
        self._settings = settings or load_settings()
        self.topic = self._settings.changes_topic
        self._spans = SendSpans(tracing, self.topic, CLIENT_ID)
        self._delivery_timeout_s = delivery_timeout_ms / 1000
        self._closed = False
        self._producer = RecordProducer(
            self._settings, CLIENT_ID, linger_ms=linger_ms, delivery_timeout_ms=delivery_timeout_ms
        )

    def connect(self, timeout_s: float = 5) -> None:
        """Find out at the start, not after the delivery timeout, that Kafka or the topic is missing. Optional.

        Raises BrokerUnavailable (try again later) or TopicsWrong, which names the command that makes the topics.
        The embedded broker makes topics at their first use and is not asked for them.
        """
        self._producer.connect(timeout_s)
        if self._settings.embedded_broker_id is not None:
            return
        admin = AdminClient(librdkafka_config(self._settings, CLIENT_ID))
        try:
            topics = admin.list_topics(timeout=timeout_s).topics  # of all: asking for one could create it
        except KafkaException as error:
            raise BrokerUnavailable(error.args[0].str()) from error
        if self.topic not in topics:
            raise TopicsWrong(
                f"topic {self.topic} does not exist on {self._settings.brokers}. Run: headrace topics create "
                f"--collection {self._settings.collection} --brokers {self._settings.brokers}"
            )

    def upsert(
        self,
        id: str,
        text: str,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        version: int | None = None,
        event_time: datetime | str | int | None = None,
    ) -> Delivery:
        """Publish the whole document; replaces what was there. See `publish` for the future and what is raised.

        metadata: flat; values are str, int, float, bool or lists of str. version: your own, growing; an older one
        never replaces a newer one. event_time: when it changed at the source, as a datetime with time zone,
        RFC 3339 or ms since the epoch; default: now. Raises InvalidChange if a value is out of bounds.
        """
        fields = {
            "id": id,
            "text": text,
            "title": title,
            "metadata": metadata or {},
            "version": version,
            "event_time": event_time.isoformat() if isinstance(event_time, datetime) else event_time,
        }
        return self.publish(parse_change(fields))

    def delete(self, id: str, *, version: int | None = None) -> Delivery:
        """Delete the document; it need not exist. See `publish`. Raises InvalidChange if the id is out of bounds."""
        return self.publish(parse_change({"op": "delete", "id": id, "version": version}))

    def publish(self, change: DocumentChange) -> Delivery:
        """Queue one change; the future has its position once Kafka confirmed it.

        The future fails with BrokerUnavailable (not confirmed: publish it again, that is always safe) or Rejected
        (the broker refuses the record). It cannot be cancelled: what is queued is sent.
        Raises Rejected at once, sending nothing, if the text is larger than the setting `max_text_bytes`.
        """
        future = Delivery()
        future.set_running_or_notify_cancel()

        def delivered(position: Position | None, error: Exception | None) -> None:
            if position is not None:
                future.set_result(position)
                return
            log.error("document %r was not published: %s", change.id, error)
            future.set_exception(error or BrokerUnavailable("no position"))

        future.trace_id = self.send(change, delivered)
        return future

    def send(self, change: DocumentChange, delivered: Delivered) -> str:
        """As `publish`, but calls `delivered(position, None)` or `delivered(None, error)` exactly once.

        Returns the trace id of the change. `delivered` is called from another thread, or from this call or `flush`; it
        must be quick and must not raise.
        """
        if self._closed:
            raise ValueError("this publisher is closed")
        value = self._encode(change)
        traceparent, span = self._spans.start(change.id, value)
        headers = [("traceparent", traceparent.encode()), (PRODUCED_HEADER, b"%d" % time.time_ns())]
        record = Record(self.topic, change.key, value, headers=headers)
        trace_id = trace_id_of(traceparent) or ""
        if span is None:
            self._producer.produce(record, delivered)
            return trace_id

        def traced(position: Position | None, error: Exception | None) -> None:
            finish(span, position, error)
            delivered(position, error)

        self._producer.produce(record, traced)
        return trace_id

    def flush(self, timeout_s: float) -> int:
        """Wait until all is confirmed or failed; returns how many changes are still under way after `timeout_s`."""
        return self._producer.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> int:
        """Flush and stop; returns how many changes stay unconfirmed, 0 with the default, the delivery timeout."""
        if self._closed:
            return 0
        self._closed = True
        return self._producer.close(self._delivery_timeout_s + 5 if timeout_s is None else timeout_s)

    def __enter__(self) -> DocumentPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(None if kind is None else _GIVE_UP_S)

    def _encode(self, change: DocumentChange) -> bytes | None:
        """The value; a bare delete is null, so that compaction forgets the document in the end."""
        if change.op == "delete" and change.version is None and change.event_time is None:
            return None
        limit = self._settings.max_text_bytes
        try:
            if change.text is not None and len(change.text) * 4 > limit and len(change.text.encode()) > limit:
                raise Rejected(f"the text of {change.id[:64]!r} is larger than max_text_bytes ({limit})")
            return change.encode()
        except (UnicodeEncodeError, TypeError) as error:  # half a surrogate pair: no UTF-8 can carry it
            raise Rejected(f"the document {change.id[:64]!r} holds text that is not valid Unicode") from error


def min_offsets(positions: Iterable[Position]) -> dict[str, int]:
    """The `min_offsets` of a search that must see all these changes: partition → highest offset, {"0": 41}."""
    highest: dict[str, int] = {}
    for position in positions:
        partition = str(position.partition)
        highest[partition] = max(position.offset, highest.get(partition, -1))
    return highest
