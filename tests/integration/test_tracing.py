"""The trace of one document through producer, embed and index worker, as a collector receives it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.local.broker import EmbeddedBroker
from app.observe.tracing import Tracing
from producers import DocumentPublisher
from schemas.headers import STEPS
from tests.conftest import MakeStack
from tests.services_local import eventually
from tests.stack import unique

SERVICES = {"headrace-publish", "headrace-index"}


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
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer._keep(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
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

    def _keep(self, body: bytes) -> None:
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


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_a_document_leaves_one_trace_from_its_producer_to_the_index(
    make_stack: MakeStack, embedded_broker: EmbeddedBroker, collector: Collector
) -> None:
    stack = make_stack(
        embedded_broker.address,
        None,
        runtime="hashing",
        embedded_broker_id="test",
        otlp_endpoint=collector.url,
        trace_one_in=1,
        probe_one_in=1,
    )
    stack.start()
    id = unique("doc")
    tracing = Tracing(stack.settings, "publish")
    with DocumentPublisher(stack.settings, tracing=tracing) as publisher:
        position = publisher.upsert(id, "A document that is traced.").result(30)
    tracing.close()
    poison = stack.produce(b"poison", b"not JSON")

    hit = stack.hits("traced", [position, poison])[id]
    eventually(lambda: stack.metrics("index")['headrace_index_probes_total{outcome="seen"}'] == 1, within_s=30)
    stack.stop("index", "embed")  # they send what they still hold

    eventually(lambda: {span.service for span in collector.of(hit["trace_id"])} == SERVICES)
    spans = collector.of(hit["trace_id"])
    by_name = {span.name: span for span in spans}
    assert len(by_name) == len(spans)
    publish = by_name[f"publish {stack.settings.changes_topic}"]
    index = by_name[f"index {stack.settings.vectors_topic}"]
    assert (publish.parent, index.parent) == ("", publish.id)
    assert index.attributes["document.id"] == publish.attributes["document.id"] == id
    assert index.attributes["headrace.source.offset"] == publish.attributes["messaging.kafka.offset"] == position.offset
    assert index.attributes["headrace.probe"] == "seen"
    steps = [span for span in spans if span.parent == index.id]
    assert len(spans) == 2 + len(steps)
    assert [span.name for span in steps] == [*(name for name, _, _ in STEPS), "probe"]
    assert index.start_ns == steps[0].start_ns
    assert all(before.end_ns == after.start_ns for before, after in pairwise(steps))
    assert index.end_ns == steps[-1].end_ns

    batches = {span.id: span for span in collector.spans if span.name == f"embed {stack.settings.changes_topic}"}
    (batch,) = (batches[link] for link in index.links)
    assert publish.id in batch.links
    assert batch.attributes["headrace.batch.documents"] >= 1  # type: ignore[operator]
    (letter,) = [span for span in collector.spans if span.name == f"process {stack.settings.changes_topic}"]
    assert letter.attributes["headrace.dead_letter"] is True
    assert (letter.attributes["document.id"], letter.parent) == ("poison", "")
    assert set(letter.links) <= set(batches)


def test_a_collector_that_is_not_there_holds_nothing_up(make_stack: MakeStack, embedded_broker: EmbeddedBroker) -> None:
    stack = make_stack(
        embedded_broker.address,
        None,
        runtime="hashing",
        embedded_broker_id="test",
        otlp_endpoint="http://127.0.0.1:1",
        trace_one_in=1,
    )
    stack.start()
    id = unique("doc")

    assert id in stack.hits("nobody", stack.publish(id, "Nobody listens."))
    stack.stop("search", "index", "embed", within_s=15)
