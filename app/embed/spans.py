"""Spans of the embed worker: one live span per batch, and one per traced document that links to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from app.embed.chunks import EmbeddedBatch
from app.embed.events import DeadEvent, Work
from app.observe.tracing import Tracing, format_traceparent, parent_of

_MAX_ID_CHARS = 256


class BatchTrace:
    """The spans of one batch. All methods do nothing when tracing is off."""

    def __init__(self, tracing: Tracing, topic: str, group: str, span: Span) -> None:
        self._tracing = tracing
        self._topic = topic
        self._group = group
        self._span = span
        self._documents: list[Span] = []

    def open_documents(self, works: Sequence[Work]) -> None:
        """Start a span for each document that is traced; what follows becomes its child."""
        for work in works:
            if self._tracing.wants(work.traceparent):
                span = self._start(work)
                work.traceparent = format_traceparent(span.get_span_context())
                self._documents.append(span)

    def embedded(self, works: Sequence[Work], batch: EmbeddedBatch) -> None:
        """Say what the batch cost."""
        if self._tracing.enabled:
            chunk_count = sum(len(result.chunks) for result in batch.results if not isinstance(result, Exception))
            self._span.set_attribute("headrace.batch.documents", len(works))
            self._span.set_attribute("headrace.batch.chunks", chunk_count)
            self._span.set_attribute("headrace.batch.chunks_embedded", len(batch.vectors))

    def dead_letters(self, dead: Iterable[DeadEvent]) -> None:
        """An error event for each dead letter: always, not one in N."""
        if self._tracing.enabled:
            for item in dead:
                attributes: dict[str, str | int] = {
                    "messaging.destination.partition.id": str(item.event.partition),
                    "messaging.kafka.offset": item.event.offset,
                    "headrace.stage": item.stage,
                    "exception.message": str(item.error),
                }
                self._span.add_event("dead letter", attributes)
                self._span.set_attribute("headrace.dead_letter", True)
                self._span.set_status(Status(StatusCode.ERROR, "dead letters"))

    def close(self) -> None:
        """End the spans of the documents."""
        for span in self._documents:
            span.end()

    def _start(self, work: Work) -> Span:
        return self._tracing.tracer.start_span(
            f"process {self._topic}",
            context=parent_of(work.traceparent),
            kind=SpanKind.CONSUMER,
            links=[Link(self._span.get_span_context())],
            start_time=work.event.consumed_ns,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": self._topic,
                "messaging.destination.partition.id": str(work.event.partition),
                "messaging.consumer.group.name": self._group,
                "messaging.kafka.offset": work.event.offset,
                "document.id": work.change.id[:_MAX_ID_CHARS],
                "document.op": work.change.op,
            },
        )


class BatchSpans:
    """Makes the spans of each batch."""

    def __init__(self, tracing: Tracing, topic: str, group: str) -> None:
        self._tracing = tracing
        self._topic = topic
        self._group = group

    @contextmanager
    def batch(self, event_count: int) -> Iterator[BatchTrace]:
        """The span of one batch, ended when the block is left; an exception makes it an error."""
        span = self._tracing.tracer.start_span("embed batch", attributes={"messaging.batch.message_count": event_count})
        trace = BatchTrace(self._tracing, self._topic, self._group, span)
        try:
            yield trace
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            trace.close()
            span.end()
