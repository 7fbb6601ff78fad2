"""Spans to an OTLP endpoint when one is set; nothing, at no cost, when not.

Trace ids exist either way (a document's hit names its trace), only spans cost. One document in N is traced,
decided by a hash of its trace id, so that every process decides alike.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from schemas.errors import SettingsError

if TYPE_CHECKING:
    from app.settings import Settings

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
# an id of zeros only is invalid; later versions may append more fields
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-|$)")


def new_traceparent() -> str:
    """A W3C traceparent with a fresh trace id; what the ids say does not depend on whether spans are sent."""
    random = os.urandom(24).hex()
    return f"00-{random[:32]}-{random[32:]}-01"


def trace_id_of(traceparent: str | None) -> str | None:
    """The 32 hex digits, or None if the header is absent or malformed."""
    match = _TRACEPARENT.match(traceparent) if traceparent else None
    return match[1] if match else None


def parse_traceparent(traceparent: str | None) -> SpanContext | None:
    """W3C Trace Context, version 00. None if absent or malformed: tracing must never stop a document."""
    match = _TRACEPARENT.match(traceparent) if traceparent else None
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=SAMPLED) if match else None


def format_traceparent(context: SpanContext) -> str:
    """The header that names `context` as the parent."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


class Tracing:
    """Hands out tracers and decides which documents are traced. Close it: `close` sends what is left."""

    def __init__(self, settings: Settings, role: str) -> None:
        self.enabled = settings.otlp_endpoint is not None
        self._one_in = settings.trace_one_in
        self._provider = _otlp_provider(settings, role) if settings.otlp_endpoint else None
        self.tracer = self._provider.get_tracer("headrace") if self._provider else trace.NoOpTracer()

    def wants(self, traceparent: str | None) -> bool:
        """Whether the document with this traceparent is the one in N. The same in every process."""
        if not self.enabled:
            return False
        context = parse_traceparent(traceparent)
        return context is not None and (context.trace_id & 0xFFFFFFFF) % self._one_in == 0

    def close(self) -> None:
        """Send the spans that are waiting; at most the exporter's own timeout."""
        if self._provider is not None:
            self._provider.shutdown()


def parent_of(traceparent: str | None) -> Context | None:
    """A context whose current span is the remote parent; None starts a new trace."""
    context = parse_traceparent(traceparent)
    return trace.set_span_in_context(NonRecordingSpan(context)) if context else None


def _otlp_provider(settings: Settings, role: str):  # type: ignore[no-untyped-def]
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise SettingsError(
            "otlp_endpoint is set, but the exporter is not installed: pip install 'headrace[otlp]'"
        ) from error
    assert settings.otlp_endpoint is not None
    endpoint = settings.otlp_endpoint.rstrip("/")
    if not endpoint.endswith("/v1/traces"):
        endpoint += "/v1/traces"
    resource = Resource.create({"service.name": f"headrace-{role}", "headrace.collection": settings.collection})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    return provider
