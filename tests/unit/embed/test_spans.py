"""Spans of batches: what they cost, whom they point to, and those of dead letters."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.embed.chunks import Embedded, EmbeddedBatch
from app.embed.economics import Economics, ModelCost
from app.embed.events import DeadEvent
from app.embed.spans import BatchSpans
from app.model.runs import RunFacts
from app.observe.metrics import EmbedMetrics
from app.observe.tracing import Tracing, format_traceparent
from schemas.errors import EmbedderUnavailable, InvalidChange, UnembeddableText
from tests.unit.embed.parts import SETTINGS, event, raw_event, work_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Recorded:
    """Spans of batches that stay in memory."""

    def __init__(self, one_in: int = 1) -> None:
        self.exporter = InMemorySpanExporter()
        settings = SETTINGS.model_copy(update={"trace_one_in": one_in})
        tracing = Tracing(settings, "embed", SimpleSpanProcessor(self.exporter))
        self.spans = BatchSpans(tracing, "d.changes", "d-embed")

    @property
    def batch(self) -> ReadableSpan:
        (span,) = (span for span in self.exporter.get_finished_spans() if span.name == "embed d.changes")
        return span


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_batch_says_what_it_held_and_what_the_model_did_for_it() -> None:
    recorded, works = Recorded(), [work_of(event(1, "a", "x")), work_of(event(2, "b", "y"))]
    good = Embedded([None] * 3, None, known=2)  # type: ignore[list-item, arg-type]
    with recorded.spans.batch(5) as trace:
        first = EmbeddedBatch([good, UnembeddableText("no", 0)], {b"k": b"v"}, ModelCost(2, 0.5, 3, 100, 28))
        trace.embedded(works, first)
        trace.embedded(works[:1], EmbeddedBatch([good], {}, ModelCost(1, 0.25)))
    assert recorded.batch.kind is SpanKind.CONSUMER
    assert told(recorded.batch) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "embed",
        "messaging.operation.type": "process",
        "messaging.destination.name": "d.changes",
        "messaging.consumer.group.name": "d-embed",
        "messaging.batch.message_count": 5,
        "headrace.batch.documents": 1,
        "headrace.batch.chunks": 3,
        "headrace.batch.chunks_known": 2,
        "headrace.batch.chunks_embedded": 1,
        "headrace.batch.model.calls": 3,
        "headrace.batch.model.seconds": 0.75,
        "headrace.batch.model.runs": 3,
        "headrace.batch.model.tokens": 100,
        "headrace.batch.model.padding_tokens": 28,
    }


@pytest.mark.parametrize(("flags", "one_in", "links"), [("01", 1, [SPAN]), ("00", 1, []), ("01", 2**31 - 1, [])])
def test_a_batch_points_to_the_publishers_that_are_traced_and_its_documents_to_it(
    flags: str, one_in: int, links: list[str]
) -> None:
    recorded, work = Recorded(one_in), work_of(event(7, "a", "x", partition=3))
    work.traceparent = f"00-{TRACE}-{SPAN}-{flags}"
    with recorded.spans.batch(1) as trace:
        trace.begun([work])
    batch = recorded.batch
    assert batch.context is not None
    assert work.batch == format_traceparent(batch.context)
    assert [f"{link.context.span_id:016x}" for link in batch.links] == links
    position = {"messaging.destination.partition.id": "3", "messaging.kafka.offset": 7}
    assert all(dict(link.attributes or {}) == position for link in batch.links)


def test_a_batch_that_fails_says_why() -> None:
    recorded = Recorded()
    with pytest.raises(EmbedderUnavailable), recorded.spans.batch(1):
        raise EmbedderUnavailable("no model")
    assert recorded.batch.status.status_code is StatusCode.ERROR
    assert told(recorded.batch).items() >= {"headrace.error": True, "error.type": "EmbedderUnavailable"}.items()


def test_a_dead_letter_is_an_error_in_the_trace_of_its_publisher_that_points_to_its_batch() -> None:
    recorded = Recorded(one_in=2**31 - 1)
    bad = raw_event(4, b"a", b"no JSON", headers=[("traceparent", f"00-{TRACE}-{SPAN}-01".encode())])
    with recorded.spans.batch(1) as trace:
        trace.dead_letters([DeadEvent(bad, "decode", InvalidChange("no JSON"))])
    letter, batch = recorded.exporter.get_finished_spans()
    assert (letter.name, letter.kind) == ("process d.changes", SpanKind.CONSUMER)
    assert letter.context is not None
    assert letter.parent is not None
    assert (f"{letter.context.trace_id:032x}", f"{letter.parent.span_id:016x}") == (TRACE, SPAN)
    assert batch.context is not None
    assert [link.context.span_id for link in letter.links] == [batch.context.span_id]
    wanted = {"document.id": "a", "messaging.kafka.offset": 4, "headrace.dead_letter": True, "headrace.error": True}
    wanted |= {"headrace.stage": "decode", "error.type": "InvalidChange", "messaging.operation.name": "process"}
    assert told(letter).items() >= wanted.items()


def test_what_a_batch_costs_is_what_was_spent_on_it_alone() -> None:
    economics = Economics(EmbedMetrics())
    economics.ran(RunFacts(1, 10, 16, 0.1, 2048))  # to warm up
    before = economics.spent
    economics.ran(RunFacts(2, 30, 64, 0.2, 2048))
    economics.called(100, 0.5)
    assert economics.spent - before == ModelCost(1, 0.5, 1, 30, 34)
