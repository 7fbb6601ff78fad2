"""Spans to an OTLP endpoint when one is set; nothing, at no cost, when not.

Trace ids exist either way (a document's hit names its trace), only spans cost. One document in N is traced, decided by
a hash of its trace id, so that every process decides alike. The sampled flag of a traceparent says whether the span
that it names is sent: a span of ours is its child then, else the root of the same trace: no trace lacks its root.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from app.observe.sdk import Sdk
    from app.settings import Settings

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
Attributes = dict[str, str | int | float | bool]
_MAX_ID_CHARS = 256
# an id of zeros only is invalid; later versions may append more fields
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)")


def new_traceparent() -> str:
    """A W3C traceparent with a fresh trace id, of a span that nobody sends."""
    random = os.urandom(24).hex()
    return f"00-{random[:32]}-{random[32:]}-00"


def trace_id_of(traceparent: str | None) -> str | None:
    """The 32 hex digits, or None if the header is absent or malformed."""
    match = _TRACEPARENT.match(traceparent) if traceparent else None
    return match[1] if match else None


def parse_traceparent(traceparent: str | None) -> SpanContext | None:
    """W3C Trace Context, version 00. None if absent or malformed: tracing must never stop a document."""
    match = _TRACEPARENT.match(traceparent) if traceparent else None
    if match is None:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16)))


def is_chosen(traceparent: str | None, one_in: int) -> bool:
    """Whether the trace is the one in N, by its id: every process says the same. 0: none is."""
    trace_id = trace_id_of(traceparent) if one_in else None
    return trace_id is not None and int(trace_id[-8:], 16) % one_in == 0


def format_traceparent(context: SpanContext, *, sent: bool = True) -> str:
    """The header that names `context` as the parent. sent: False says that nobody sends that span."""
    flags = int(context.trace_flags) & (0xFF if sent else ~TraceFlags.SAMPLED)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"


class Tracing:
    """Hands out spans and decides which documents are traced. Close it: `close` sends what is left.

    processor: for tests, instead of the one that sends to the endpoint.
    """

    def __init__(self, settings: Settings, role: str, processor: SpanProcessor | None = None) -> None:
        self.enabled = processor is not None or settings.otlp_endpoint is not None
        self._one_in = settings.trace_one_in
        self._hashed = settings.trace_document_ids == "hashed"
        self._sdk: Sdk | None = None
        self.tracer: trace.Tracer = trace.NoOpTracer()
        if self.enabled:
            from app.observe.sdk import Sdk  # a tenth of a second that most starts can do without

            self._sdk = Sdk(settings, role, processor)
            self.tracer = self._sdk.tracer

    def wants(self, traceparent: str | None) -> bool:
        """Whether the document with this traceparent is the one in N. The same in every process."""
        return self.enabled and is_chosen(traceparent, self._one_in)

    def start(
        self,
        name: str,
        traceparent: str | None,
        *,
        kind: SpanKind,
        start_ns: int,
        attributes: Attributes,
        link: str | None = None,
    ) -> Span:
        """A span in the trace of `traceparent`: child of the span that it names if that was sent, else the root.

        link: the traceparent of another span, that this one is to point to.
        """
        context = parse_traceparent(traceparent)
        linked = parse_traceparent(link)
        links = [] if linked is None else [Link(linked)]
        parent = None
        if context is not None and context.trace_flags.sampled:
            parent = trace.set_span_in_context(NonRecordingSpan(context))
        trace_id = context.trace_id if context is not None and parent is None else None
        with self._sdk.in_trace(trace_id) if self._sdk is not None else nullcontext():
            return self.tracer.start_span(
                name,
                context=Context() if parent is None else parent,
                kind=kind,
                links=links,
                start_time=start_ns,
                attributes=attributes,
            )

    def document_id(self, document_id: str) -> str:
        """How spans name a document: as it is, or as the first 16 hex digits of its BLAKE2b hash (setting)."""
        if self._hashed:
            return hashlib.blake2b(document_id.encode(), digest_size=8).hexdigest()
        return document_id[:_MAX_ID_CHARS]

    def close(self) -> None:
        """Send the spans that are waiting; at most the exporter's own timeout."""
        if self._sdk is not None:
            self._sdk.close()
