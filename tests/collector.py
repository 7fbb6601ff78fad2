"""An OTLP collector in the test: what spans and metrics look like to who receives them."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


@dataclass(frozen=True)
class Span:
    """A span as received. Ids in hex; parent empty at the root."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, str | int | bool]
    start_ns: int
    end_ns: int


class Collector:
    """An OTLP/HTTP endpoint on loopback that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: dict[str, Metric] = {}  # by name, the last of each
        self.resources: list[dict[str, str]] = []  # of metrics
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                keep = {"/v1/traces": outer._keep_spans, "/v1/metrics": outer._keep_metrics}[self.path]
                keep(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def of(self, trace: str) -> list[Span]:
        """The spans of one trace, in the order of their start."""
        return sorted((span for span in list(self.spans) if span.trace == trace), key=lambda span: span.start_ns)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _keep_spans(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(
                item.value.string_value for item in resource.resource.attributes if item.key == "service.name"
            )
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    Span(
                        service,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        tuple(link.span_id.hex() for link in span.links),
                        {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes},
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                    )
                )

    def _keep_metrics(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            own = {item.key: item.value.string_value for item in resource.resource.attributes}
            self.resources.append({name: own[name] for name in ("service.name", "headrace.collection")})
            self.metrics |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
