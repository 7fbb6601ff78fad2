"""The OpenTelemetry SDK as Headrace uses it; imported where spans are sent, and only there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from app.settings import Settings
from schemas.errors import SettingsError


class Sdk:
    """Sends every span that is ended. processor: instead of the one that sends to the setting's endpoint."""

    def __init__(self, settings: Settings, role: str, processor: SpanProcessor | None) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=resource(settings, role),
            sampler=ALWAYS_ON,
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor or _otlp(settings))
        self.tracer = self._provider.get_tracer("headrace")

    @contextmanager
    def in_trace(self, trace_id: int | None) -> Iterator[None]:
        """Inside, in this thread, a span without a parent is the root of that trace; None: of one of its own."""
        self._ids.local.trace_id = trace_id
        try:
            yield
        finally:
            self._ids.local.trace_id = None

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def resource(settings: Settings, role: str) -> Resource:
    """Who sends spans and metrics."""
    return Resource.create({"service.name": f"headrace-{role}", "headrace.collection": settings.collection})


class _Ids(RandomIdGenerator):
    """Random ids, but for the root of a trace whose id exists already."""

    def __init__(self) -> None:
        self.local = threading.local()

    def generate_trace_id(self) -> int:
        given: int | None = getattr(self.local, "trace_id", None)
        return super().generate_trace_id() if given is None else given


def _otlp(settings: Settings) -> SpanProcessor:
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
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5))
