"""Spans of the embed worker: one live span per batch, and one per dead letter. Those of documents the index worker
writes, who knows their whole story; they point to the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from app.embed.chunks import EmbeddedBatch
from app.embed.coalesce import produced_ns
from app.embed.events import DeadEvent, Work
from app.observe.tracing import Attributes, Tracing, format_traceparent


class BatchTrace:
    """The spans of one batch. All methods do nothing when tracing is off."""

    def __init__(self, tracing: Tracing, messaging: Attributes, span: Span) -> None:
        self._tracing = tracing
        self._messaging = messaging
        self._span = span
        self._traceparent = format_traceparent(span.get_span_context()) if tracing.enabled else None

    def begun(self, works: Iterable[Work]) -> None:
        """Let the documents name their batch."""
        for work in works if self._traceparent is not None else ():
            work.batch = self._traceparent

    def embedded(self, works: Sequence[Work], batch: EmbeddedBatch) -> None:
        """Say what the batch cost."""
        if self._tracing.enabled:
            chunk_count = sum(len(result.chunks) for result in batch.results if not isinstance(result, Exception))
            self._span.set_attribute("headrace.batch.documents", len(works))
            self._span.set_attribute("headrace.batch.chunks", chunk_count)
            self._span.set_attribute("headrace.batch.chunks_embedded", len(batch.vectors))

    def dead_letters(self, dead: Iterable[DeadEvent]) -> None:
        """An error span for each dead letter, in the trace of its publisher: always, not one in N."""
        for item in dead if self._tracing.enabled else ():
            event, headers = item.event, dict(item.event.headers)
            attributes = self._messaging | {
                "messaging.destination.partition.id": str(event.partition),
                "messaging.kafka.offset": event.offset,
                "document.id": self._tracing.document_id((event.key or b"").decode(errors="replace")),
                "headrace.dead_letter": True,
                "headrace.error": True,
                "headrace.stage": item.stage,
                "error.type": type(item.error).__name__,
            }
            span = self._tracing.start(
                f"process {self._messaging['messaging.destination.name']}",
                (headers.get("traceparent") or b"").decode(errors="replace"),
                kind=SpanKind.CONSUMER,
                start_ns=min(produced_ns(headers, event), event.consumed_ns),
                attributes=attributes,
                link=self._traceparent,
            )
            span.set_status(Status(StatusCode.ERROR, str(item.error)))
            span.end()
            self._span.set_attribute("headrace.dead_letter", True)


class BatchSpans:
    """Makes the spans of each batch."""

    def __init__(self, tracing: Tracing, topic: str, group: str) -> None:
        self._tracing = tracing
        self._messaging: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group,
        }

    @contextmanager
    def batch(self, event_count: int) -> Iterator[BatchTrace]:
        """The span of one batch, ended when the block is left; an exception makes it an error."""
        attributes = self._messaging | {"messaging.batch.message_count": event_count}
        span = self._tracing.tracer.start_span("embed batch", kind=SpanKind.CONSUMER, attributes=attributes)
        trace = BatchTrace(self._tracing, self._messaging, span)
        try:
            yield trace
        except Exception as error:
            span.set_attribute("headrace.error", True)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            span.end()
