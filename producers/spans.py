"""The producer's span of a change, in OpenTelemetry's messaging semantic conventions, and the traceparent it sends."""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from app.kafka.producer import Position
from app.observe.tracing import Attributes, Tracing, format_traceparent, new_traceparent


class SendSpans:
    """Starts the spans of one topic. Every change gets a traceparent, only those that tracing wants a span."""

    def __init__(self, tracing: Tracing | None, topic: str, client_id: str) -> None:
        self._tracing = tracing if tracing is not None and tracing.enabled else None
        self._name = f"publish {topic}"
        self._attributes: Attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.client.id": client_id,
        }

    def start(self, document_id: str, body: bytes | None) -> tuple[str, Span | None]:
        """The traceparent of one change, and its span if it is traced; `finish` ends it. body: None for a tombstone.

        A span that is open in the calling application is the parent if it is sampled, that is, sent; if not, the change
        is the root of its trace. Whether a trace is wanted is decided by its
        id, which the SDK draws: a span that is not wanted is dropped without being ended, so it is never sent, and the
        header says that nobody sends it.
        """
        if self._tracing is None:
            return _of_the_caller() or new_traceparent(), None
        span = self._started(self._tracing)
        traceparent = format_traceparent(span.get_span_context())
        if not self._tracing.wants(traceparent):
            return _of_the_caller() or format_traceparent(span.get_span_context(), sent=False), None
        span.set_attribute("document.id", self._tracing.document_id(document_id))
        span.set_attribute("messaging.message.body.size", len(body or b""))
        if body is None:
            span.set_attribute("messaging.kafka.message.tombstone", value=True)
        return traceparent, span

    def _started(self, tracing: Tracing) -> Span:
        caller = trace.get_current_span().get_span_context()
        if not caller.is_valid or caller.trace_flags.sampled:
            return tracing.tracer.start_span(self._name, kind=SpanKind.PRODUCER, attributes=self._attributes)
        return tracing.start(
            self._name,
            format_traceparent(caller),
            kind=SpanKind.PRODUCER,
            start_ns=time.time_ns(),
            attributes=self._attributes,
        )


def finish(span: Span, position: Position | None, error: Exception | None) -> None:
    """End a span with where the change was written, or why it was not."""
    if position is not None:
        span.set_attribute("messaging.destination.partition.id", str(position.partition))
        span.set_attribute("messaging.kafka.offset", position.offset)
    if error is not None:
        span.set_attributes({"headrace.error": True, "error.type": type(error).__name__})
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()


def _of_the_caller() -> str | None:
    context = trace.get_current_span().get_span_context()
    return format_traceparent(context) if context.is_valid else None
