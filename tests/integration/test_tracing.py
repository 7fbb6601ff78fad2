"""The trace of one document through producer, embed and index worker, as a collector receives it."""

from __future__ import annotations

from itertools import pairwise

from app.local.broker import EmbeddedBroker
from app.observe.tracing import Tracing
from producers import DocumentPublisher
from schemas.headers import STEPS
from tests.collector import Collector
from tests.conftest import MakeStack
from tests.services_local import eventually
from tests.stack import unique

SERVICES = {"headrace-publish", "headrace-index"}


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
        otlp_metrics=True,
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

    sent = {told["service.name"] for told in collector.resources}  # at the latest when they end
    assert sent == {"headrace-embed", "headrace-index"}

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
