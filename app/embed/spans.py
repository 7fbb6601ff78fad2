"""Spans of the embed worker: one live span per batch, and one per dead letter. Those of documents the index worker
writes, who knows their whole story; they point to the batch. Names are those of OpenTelemetry's messaging semantic
conventions 1.44."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from app.embed.chunks import EmbeddedBatch
from app.embed.coalesce import produced_ns
from app.embed.economics import ModelCost
from app.embed.events import DeadEvent, Work
from app.event import Event
from app.observe.tracing import Attributes, Tracing, format_traceparent, parse_traceparent


class BatchTrace:
    """The spans of one batch. All methods do nothing when tracing is off."""

    def __init__(self, tracing: Tracing, messaging: Attributes, span: Span) -> None:
        self._tracing = tracing
        self._messaging = messaging
        self._span = span
        self._traceparent = format_traceparent(span.get_span_context()) if tracing.enabled else None
        self._chunks_embedded = 0
        self._cost = ModelCost()

    def begun(self, works: Iterable[Work]) -> None:
        """Let the documents name their batch, and the batch point to the publishers of those that are traced."""
        for work in works if self._traceparent is not None else ():
            work.batch = self._traceparent
            publisher = parse_traceparent(work.traceparent)
            if publisher is not None and publisher.trace_flags.sampled and self._tracing.wants(work.traceparent):
                self._span.add_link(publisher, _position(work.event))

    def embedded(self, works: Sequence[Work], batch: EmbeddedBatch) -> None:
        """Say what the batch cost. Where a part of it is embedded again, all of it counts."""
        if not self._tracing.enabled:
            return
        results = [result for result in batch.results if not isinstance(result, Exception)]
        self._chunks_embedded += len(batch.vectors)
        self._cost += batch.cost
        told: Attributes = {
            "documents": len(works),
            "chunks": sum(len(result.chunks) for result in results),
            "chunks_known": sum(result.known for result in results),
            "chunks_embedded": self._chunks_embedded,
            "model.calls": self._cost.calls,
            "model.seconds": round(self._cost.seconds, 6),
            "model.runs": self._cost.runs,
            "model.tokens": self._cost.tokens,
            "model.padding_tokens": self._cost.padding_tokens,
        }
        self._span.set_attributes({f"headrace.batch.{name}": value for name, value in told.items()})

    def dead_letters(self, dead: Iterable[DeadEvent]) -> None:
        """An error span for each dead letter, in the trace of its publisher: always, not one in N."""
        for item in dead if self._tracing.enabled else ():
            event, headers = item.event, dict(item.event.headers)
            attributes = (
                self._messaging
                | _position(event)
                | {
                    "messaging.operation.name": "process",
                    "document.id": self._tracing.document_id((event.key or b"").decode(errors="replace")),
                    "headrace.dead_letter": True,
                    "headrace.error": True,
                    "headrace.stage": item.stage,
                    "error.type": type(item.error).__name__,
                }
            )
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
            "messaging.operation.name": "embed",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group,
        }

    @contextmanager
    def batch(self, event_count: int) -> Iterator[BatchTrace]:
        """The span of one batch, ended when the block is left; an exception makes it an error."""
        attributes = self._messaging | {"messaging.batch.message_count": event_count}
        name = f"embed {self._messaging['messaging.destination.name']}"
        span = self._tracing.tracer.start_span(name, kind=SpanKind.CONSUMER, attributes=attributes)
        trace = BatchTrace(self._tracing, self._messaging, span)
        try:
            yield trace
        except Exception as error:
            span.set_attributes({"headrace.error": True, "error.type": type(error).__name__})
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            span.end()


def _position(event: Event) -> Attributes:
    return {"messaging.destination.partition.id": str(event.partition), "messaging.kafka.offset": event.offset}
