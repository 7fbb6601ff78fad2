"""Traces of documents: whole, with the right parents, and of those that somebody will want to see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.event import Event
from app.freshness.probe import Probed
from app.freshness.traces import FreshnessTraces, steps
from app.observe.tracing import Tracing
from app.settings import Settings
from app.shard.apply import AppliedDocument
from schemas.errors import InvalidVectorRecord
from schemas.headers import STAGES, STEPS, RecordHeaders, Stage

TRACE, SPAN, BATCH = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b9c7c989f97918e1"
MS = 1_000_000
RARE = 2**31 - 1
TIMES: dict[Stage, int] = dict(
    zip(STAGES, [at * MS for at in (1000, 1010, 1015, 1018, 1040, 1041, 1050, 1060, 1065)], strict=True)
)


class Recorded:
    """Traces whose spans stay in memory."""

    def __init__(self, **settings: Any) -> None:
        given = Settings(_env_file=None, **({"collection": "d", "replica": "b"} | settings))
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(given, "index", SimpleSpanProcessor(self.exporter))
        self.traces = FreshnessTraces(self.tracing, given)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def by_name(self) -> dict[str, ReadableSpan]:
        found = {span.name: span for span in self.spans}
        assert len(found) == len(self.spans)
        return found


def applied(flags: str = "01", stages: dict[Stage, int] = TIMES, **changed: Any) -> AppliedDocument:
    told = {"kind": "document", "version": 7, "known_chunks": 1, "batch": f"00-{TRACE}-{BATCH}-01"} | changed
    headers = RecordHeaders(
        source_partition=3, source_offset=5, through=5, as_of_ms=0, epoch="e", event_time_ms=900,
        stages=dict(stages), traceparent=f"00-{TRACE}-{SPAN}-{flags}", **told,
    )  # fmt: skip
    return AppliedDocument("doc-1", "A title", headers, 2, 41, np.ones(1, np.float32))


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_document_has_a_span_under_its_publisher_with_every_step_under_it() -> None:
    recorded = Recorded()
    recorded.traces.write(applied(), 3, slow=False, probed=None)
    spans = recorded.by_name()
    whole = spans.pop("index d.vectors")
    assert whole.context is not None
    assert whole.parent is not None
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == SPAN
    assert [f"{link.context.span_id:016x}" for link in whole.links] == [BATCH]
    assert list(spans) == [name for name, _, _ in STEPS]
    borders = [(span.start_time, span.end_time) for span in spans.values()]
    assert borders == [(TIMES[first], TIMES[last]) for _, first, last in STEPS]
    assert (whole.start_time, whole.end_time) == (TIMES["produced"], TIMES["visible"])
    assert {span.parent.span_id for span in spans.values() if span.parent} == {whole.context.span_id}


def test_a_document_says_what_it_is_and_where_it_was() -> None:
    recorded = Recorded()
    recorded.traces.write(applied(), 3, slow=True, probed=None)
    told = attributes(recorded.by_name()["index d.vectors"])
    assert told == {
        "messaging.system": "kafka",
        "messaging.operation.name": "index",
        "messaging.operation.type": "process",
        "messaging.destination.name": "d.vectors",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 41,
        "messaging.consumer.group.name": "d-index-b",
        "headrace.replica": "b",
        "document.id": "doc-1",
        "document.op": "upsert",
        "document.version": 7,
        "document.chunks": 2,
        "document.chunks_known": 1,
        "headrace.source.partition": 3,
        "headrace.source.offset": 5,
        "headrace.slow": True,
        "headrace.latency_ms": 65,
        "headrace.freshness_ms": 165,
    }


def test_a_delete_is_said_to_be_a_tombstone() -> None:
    recorded = Recorded()
    recorded.traces.write(applied(kind="delete", known_chunks=None), 3, slow=False, probed=None)
    told = attributes(recorded.by_name()["index d.vectors"])
    assert (told["document.op"], told["messaging.kafka.message.tombstone"]) == ("delete", True)


def test_where_nobody_sent_the_publishers_span_the_document_is_the_root_of_the_same_trace() -> None:
    recorded = Recorded()
    recorded.traces.write(applied(flags="00"), 3, slow=True, probed=None)
    whole = recorded.by_name()["index d.vectors"]
    assert whole.context is not None
    assert (f"{whole.context.trace_id:032x}", whole.parent) == (TRACE, None)
    other = recorded.tracing.tracer.start_span("of its own")
    assert f"{other.get_span_context().trace_id:032x}" != TRACE


def test_a_probe_ends_the_trace() -> None:
    recorded = Recorded()
    recorded.traces.write(applied(), 3, slow=False, probed=Probed("seen", TIMES["visible"] + 9 * MS))
    spans = recorded.by_name()
    whole, probe = spans["index d.vectors"], spans["probe"]
    assert (probe.start_time, probe.end_time) == (TIMES["visible"], TIMES["visible"] + 9 * MS)
    assert whole.end_time == probe.end_time
    assert attributes(whole)["headrace.probe"] == "seen"
    assert whole.status.status_code is StatusCode.UNSET


def test_a_failed_probe_is_an_error_that_can_be_searched_for() -> None:
    recorded = Recorded()
    recorded.traces.write(applied(), 3, slow=False, probed=Probed("failed", TIMES["visible"], "not returned"))
    spans = recorded.by_name()
    for span in (spans["index d.vectors"], spans["probe"]):
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "not returned")
        assert attributes(span).items() >= {"headrace.error": True, "error.type": "probe_failed"}.items()


@pytest.mark.parametrize(
    ("one_in", "slow", "wanted"), [(1, False, True), (2**31 - 1, False, False), (2**31 - 1, True, True)]
)
def test_one_in_n_is_traced_and_every_slow_one(one_in: int, slow: bool, wanted: bool) -> None:
    assert Recorded(trace_one_in=one_in).traces.wants(applied().headers, slow=slow) == wanted


def test_without_an_endpoint_nothing_is_wanted() -> None:
    settings = Settings(_env_file=None, trace_one_in=1)
    assert not FreshnessTraces(Tracing(settings, "index"), settings).wants(applied().headers, slow=True)


def test_steps_that_are_unknown_are_left_out_and_clocks_that_disagree_take_no_time() -> None:
    assert steps({"visible": 5}) == []
    assert steps({"produced": 20, "consumed": 10, "begun": 12}) == [
        ("wait in changes", 20, 20),
        ("wait for model", 10, 12),
    ]


def test_a_record_that_cannot_be_applied_is_an_error_in_the_trace_of_its_document() -> None:
    recorded = Recorded()
    headers = [("traceparent", f"00-{TRACE}-{SPAN}-01".encode())]
    recorded.traces.rejected(Event(3, 41, b"doc-1", b"x", headers, 0, 7 * MS), 3, InvalidVectorRecord("damaged"))
    (span,) = recorded.spans
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "damaged")
    told = attributes(span)
    assert (told["document.id"], told["headrace.dead_letter"], told["messaging.kafka.offset"]) == ("doc-1", True, 41)


def test_ids_can_be_hashed() -> None:
    recorded = Recorded(trace_document_ids="hashed")
    recorded.traces.write(applied(), 3, slow=False, probed=None)
    told = attributes(recorded.by_name()["index d.vectors"])
    assert told["document.id"] == recorded.tracing.document_id("doc-1")
    assert "doc-1" not in str(told)
    assert recorded.tracing.document_id("doc-1") != recorded.tracing.document_id("doc-2")
