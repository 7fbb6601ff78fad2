"""The freshness of a document version, and the trace that shows where its time went, written when it is visible."""

from __future__ import annotations

from opentelemetry.trace import SpanKind, set_span_in_context

from app.observe.tracing import Tracing, parent_of, trace_id_of
from schemas.headers import RecordHeaders, Stage

# what a document waits for between two stamps
_STAGES: tuple[tuple[str, Stage, Stage], ...] = (
    ("wait in changes", "produced", "consumed"),
    ("compare", "consumed", "looked_up"),
    ("embed", "looked_up", "embedded"),
    ("publish and wait in vectors", "embedded", "applied"),
    ("apply", "applied", "visible"),
)
_MAX_ID_CHARS = 256


class FreshnessTraces:
    """Writes the trace of a document version after the fact: one in N, and every one slower than the objective."""

    def __init__(self, tracing: Tracing, vectors_topic: str, objective_ms: int) -> None:
        self._tracing = tracing
        self._topic = vectors_topic
        self._objective_ms = objective_ms

    def visible(self, document_id: str, headers: RecordHeaders, partition: int, chunks: int) -> float:
        """Called once the document can be found, its last two stages stamped. Returns its freshness in seconds."""
        visible_ns = headers.stages["visible"]
        freshness_s = max(0.0, visible_ns / 1e9 - headers.event_time_ms / 1e3)
        produced_ns = headers.stages.get("produced", visible_ns)
        slow = (visible_ns - produced_ns) / 1e6 > self._objective_ms
        if self._tracing.enabled and (slow or self._tracing.wants(headers.traceparent)):
            self._write(document_id, headers, partition, chunks, slow)
        return freshness_s

    def _write(self, document_id: str, headers: RecordHeaders, partition: int, chunks: int, slow: bool) -> None:
        tracer = self._tracing.tracer
        start_ns = headers.stages.get("produced", headers.stages["visible"])
        parent = parent_of(headers.traceparent)
        span = tracer.start_span(
            f"index {self._topic}",
            context=parent,
            kind=SpanKind.CONSUMER,
            start_time=start_ns,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": self._topic,
                "messaging.destination.partition.id": str(partition),
                "document.id": document_id[:_MAX_ID_CHARS],
                "document.op": "delete" if headers.kind == "delete" else "upsert",
                "document.chunks": chunks,
                "headrace.source_offset": headers.source_offset,
                "headrace.slow": slow,
                "headrace.trace_id": trace_id_of(headers.traceparent) or "",
            },
        )
        inside = set_span_in_context(span)
        for name, begins, ends in _STAGES:
            if begins in headers.stages and ends in headers.stages:
                child = tracer.start_span(name, context=inside, start_time=headers.stages[begins])
                child.end(headers.stages[ends])
        span.end(headers.stages["visible"])
