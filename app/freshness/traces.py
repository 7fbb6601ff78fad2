"""The trace of a document version, written when it can be found: whole, and only where somebody will want it."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from app.event import Event
from app.freshness.probe import Probed
from app.observe.tracing import Attributes, Tracing
from app.settings import Settings
from app.shard.apply import AppliedDocument
from schemas.headers import STEPS, RecordHeaders, Stage


def steps(stages: Mapping[Stage, int]) -> list[tuple[str, int, int]]:
    """Name, begin and end (ns since the epoch) of every step that is known.

    Clocks of several machines may disagree: a step never ends before it begins.
    """
    known = [(name, stages[first], stages[last]) for name, first, last in STEPS if first in stages and last in stages]
    return [(name, begin, max(begin, end)) for name, begin, end in known]


class FreshnessTraces:
    """Spans of the index worker: one for a document with a child for each step, and one for a dead letter."""

    def __init__(self, tracing: Tracing, settings: Settings) -> None:
        self._tracing = tracing
        self._topic = settings.vectors_topic
        self._group = settings.index_group
        self._replica = settings.replica

    def wants(self, headers: RecordHeaders, *, slow: bool) -> bool:
        """Whether a document is traced: one in N, and every slow one."""
        return self._tracing.enabled and (slow or self._tracing.wants(headers.traceparent))

    def write(self, document: AppliedDocument, partition: int, *, slow: bool, probed: Probed | None) -> None:
        """The trace of a document that can be found."""
        headers = document.headers
        visible_ns = headers.stages["visible"]
        start_ns = headers.stages.get("produced", visible_ns)
        span = self._tracing.start(
            f"index {self._topic}",
            headers.traceparent,
            kind=SpanKind.CONSUMER,
            start_ns=start_ns,
            link=headers.batch,
            attributes=self._messaging(partition, document.offset) | self._described(document, slow=slow),
        )
        inside = set_span_in_context(span)
        for name, begin_ns, end_ns in steps(headers.stages):
            self._tracing.tracer.start_span(name, context=inside, start_time=begin_ns).end(end_ns)
        if probed is not None:
            span.set_attribute("headrace.probe", probed.outcome)
            child = self._tracing.tracer.start_span("probe", context=inside, start_time=visible_ns)
            child.set_attribute("headrace.probe", probed.outcome)
            if probed.failed:
                status = Status(StatusCode.ERROR, probed.reason)
                for failed in (child, span):
                    failed.set_status(status)
                    failed.set_attributes({"headrace.error": True, "error.type": "probe_failed"})
            child.end(probed.at_ns)
        span.end(max(start_ns, visible_ns, 0 if probed is None else probed.at_ns))

    def rejected(self, event: Event, partition: int, error: Exception) -> None:
        """A record that cannot be applied: always traced, in the trace of its document where that can be read."""
        if not self._tracing.enabled:
            return
        traceparent = (dict(event.headers).get("traceparent") or b"").decode(errors="replace")
        attributes = self._messaging(partition, event.offset) | {
            "document.id": self._tracing.document_id((event.key or b"").decode(errors="replace")),
            "headrace.dead_letter": True,
            "headrace.error": True,
            "error.type": type(error).__name__,
        }
        name = f"index {self._topic}"
        span = self._tracing.start(
            name, traceparent, kind=SpanKind.CONSUMER, start_ns=event.consumed_ns, attributes=attributes
        )
        span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()

    def _messaging(self, partition: int, offset: int) -> Attributes:
        return {
            "messaging.system": "kafka",
            "messaging.operation.name": "index",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._topic,
            "messaging.destination.partition.id": str(partition),
            "messaging.kafka.offset": offset,
            "messaging.consumer.group.name": self._group,
            "headrace.replica": self._replica,
        }

    def _described(self, document: AppliedDocument, *, slow: bool) -> Attributes:
        headers = document.headers
        visible_ns = headers.stages["visible"]
        told: Attributes = {
            "document.id": self._tracing.document_id(document.id),
            "document.op": "delete" if headers.kind == "delete" else "upsert",
            "document.chunks": document.chunks,
            "headrace.source.partition": headers.source_partition,
            "headrace.source.offset": headers.source_offset,
            "headrace.slow": slow,
            "headrace.latency_ms": (visible_ns - headers.stages.get("produced", visible_ns)) // 1_000_000,
            "headrace.freshness_ms": visible_ns // 1_000_000 - headers.event_time_ms,
        }
        optional = {
            "document.version": headers.version,
            "document.chunks_known": headers.known_chunks,
            "messaging.kafka.message.tombstone": True if headers.kind == "delete" else None,
        }
        return told | {name: value for name, value in optional.items() if value is not None}
