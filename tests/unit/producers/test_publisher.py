from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, use_span

from app.observe.tracing import Tracing, parse_traceparent
from app.settings import Settings
from producers import DocumentPublisher, Position, min_offsets
from schemas.document_change import DocumentChange
from schemas.errors import BrokerUnavailable, InvalidChange, Rejected, SettingsError
from tests.unit.producers.broker import MockBroker, changes, read_topic


def test_a_change_is_answered_with_where_it_was_written(settings: Settings) -> None:
    with DocumentPublisher(settings) as publisher:
        publisher.connect()
        position = publisher.upsert(
            "a", "text", title="T", metadata={"n": 1}, version=3, event_time=datetime(2026, 1, 31, 12, tzinfo=UTC)
        ).result(timeout=20)
    (found,) = read_topic(settings, 1)
    assert position == Position(settings.changes_topic, found.partition, found.offset)
    assert found.change == DocumentChange(
        id="a", text="text", title="T", metadata={"n": 1}, version=3, event_time=1769860800000
    )


def test_two_changes_of_one_id_keep_their_order_in_one_partition(settings: Settings) -> None:
    with DocumentPublisher(settings) as publisher:
        futures = [publisher.upsert("same", str(number)) for number in range(50)] + [publisher.delete("same")]
        positions = [future.result(timeout=20) for future in futures]
    assert {position.partition for position in positions} == {positions[0].partition}
    assert [position.offset for position in positions] == list(range(51))
    found = read_topic(settings, 51)
    assert [item.change.text for item in found] == [*map(str, range(50)), None]


def test_a_bare_delete_is_a_null_value_and_one_with_a_version_is_not(settings: Settings) -> None:
    with DocumentPublisher(settings) as publisher:
        publisher.delete("bare")
        publisher.delete("versioned", version=7)
    found = {item.key: item for item in read_topic(settings, 2)}
    assert found[b"bare"].value is None
    assert found[b"versioned"].change == DocumentChange(op="delete", id="versioned", version=7)


@pytest.mark.parametrize(
    "text", ["x", "", "a\x00b", "日本語 עברית 🙂", "é" * 500_000], ids=["one", "none", "nul", "scripts", "1MB"]
)
def test_any_text_arrives_unchanged(settings: Settings, text: str) -> None:
    with DocumentPublisher(settings) as publisher:
        publisher.upsert("a", text)
    assert changes(settings, 1)["a"].text == text


def test_every_event_says_when_it_was_produced_and_which_trace_it_belongs_to(settings: Settings) -> None:
    before = time.time_ns()
    with DocumentPublisher(settings) as publisher:
        publisher.upsert("a", "x")
        publisher.upsert("b", "x")
    first, second = read_topic(settings, 2)
    assert before <= int(first.headers["headrace-produced"]) <= time.time_ns()
    assert parse_traceparent(first.headers["traceparent"].decode()) is not None
    assert first.headers["traceparent"] != second.headers["traceparent"]


def test_what_can_never_be_indexed_is_refused_before_it_is_sent(mock_broker: MockBroker) -> None:
    settings = mock_broker.settings(max_text_bytes=10)
    with DocumentPublisher(settings) as publisher:
        publisher.upsert("fits", "é" * 5).result(timeout=20)
        with pytest.raises(Rejected, match="max_text_bytes"):
            publisher.upsert("a", "é" * 6)
        with pytest.raises(Rejected, match="Unicode"):
            publisher.upsert("a", "\ud800")
        with pytest.raises(InvalidChange, match="id"):
            publisher.upsert("", "x")
        with pytest.raises(InvalidChange, match="time zone"):
            publisher.upsert("a", "x", event_time=datetime(2026, 1, 31))  # noqa: DTZ001
        publisher.upsert("fits too", "x").result(timeout=20)
    assert {event.key for event in read_topic(settings, 2)} == {b"fits", b"fits too"}


def test_a_record_larger_than_the_topic_takes_fails_in_its_future(
    mock_broker: MockBroker, caplog: pytest.LogCaptureFixture
) -> None:
    settings = mock_broker.settings(max_record_bytes=2**20, max_text_bytes=2**19)
    with DocumentPublisher(settings) as publisher, caplog.at_level(logging.ERROR):
        assert isinstance(publisher.upsert("a", "\x00" * 2**19).exception(timeout=20), Rejected)
    assert "'a' was not published" in caplog.text


def test_a_broker_that_is_away_fails_the_future_and_connect(settings: Settings) -> None:
    away = settings.model_copy(update={"brokers": "127.0.0.1:1"})
    with DocumentPublisher(away, delivery_timeout_ms=500) as publisher:
        with pytest.raises(BrokerUnavailable):
            publisher.connect(timeout_s=0.5)
        assert isinstance(publisher.upsert("a", "x").exception(timeout=20), BrokerUnavailable)


def test_settings_that_kafkas_client_refuses_are_named(settings: Settings) -> None:
    wrong = settings.model_copy(update={"kafka_security_protocol": "SSL", "kafka_ssl_ca": "/nowhere.pem"})
    with pytest.raises(SettingsError, match="settings of Kafka do not work"):
        DocumentPublisher(wrong)


def test_a_future_that_somebody_tries_to_cancel_does_not_stop_the_others(settings: Settings) -> None:
    with DocumentPublisher(settings) as publisher:
        first = publisher.upsert("a", "x")
        assert not first.cancel()
        assert first.result(timeout=20).offset == 0
        assert publisher.upsert("a", "y").result(timeout=20).offset == 1


def test_leaving_the_block_waits_for_every_change_and_a_closed_publisher_refuses(settings: Settings) -> None:
    with DocumentPublisher(settings, linger_ms=100) as publisher:
        futures = [publisher.upsert(str(number), "x") for number in range(1000)]
    assert all(future.done() for future in futures)
    assert publisher.close() == 0
    with pytest.raises(ValueError, match="closed"):
        publisher.upsert("a", "x")


def test_the_min_offsets_of_a_search_are_the_highest_of_each_partition() -> None:
    positions = [Position("t", 0, 5), Position("t", 2, 1), Position("t", 0, 4)]
    assert min_offsets(positions) == {"0": 5, "2": 1}
    assert min_offsets([]) == {}


class Traced(Tracing):
    """Tracing into memory; wants one document in `one_in`."""

    def __init__(self, settings: Settings, one_in: int) -> None:
        super().__init__(settings, "test")
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.enabled, self._one_in, self.tracer = True, one_in, provider.get_tracer("test")


def test_the_producers_span_is_the_one_the_event_names_and_says_where_it_was_written(settings: Settings) -> None:
    tracing = Traced(settings, one_in=1)
    with DocumentPublisher(settings, tracing=tracing) as publisher:
        position = publisher.upsert("a", "x").result(timeout=20)
    (span,) = tracing.exporter.get_finished_spans()
    (found,) = read_topic(settings, 1)
    parent = parse_traceparent(found.headers["traceparent"].decode())
    assert parent is not None
    assert span.context is not None
    assert (parent.trace_id, parent.span_id) == (span.context.trace_id, span.context.span_id)
    assert (span.name, span.kind) == (f"publish {settings.changes_topic}", SpanKind.PRODUCER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": settings.changes_topic,
        "messaging.client.id": "headrace-publish",
        "document.id": "a",
        "messaging.message.body.size": len(found.value or b""),
        "messaging.destination.partition.id": str(position.partition),
        "messaging.kafka.offset": position.offset,
    }


def test_a_bare_delete_is_said_to_be_a_tombstone(settings: Settings) -> None:
    tracing = Traced(settings, one_in=1)
    with DocumentPublisher(settings, tracing=tracing) as publisher:
        publisher.delete("a")
        publisher.delete("a", version=3)
    told = [dict(span.attributes or {}) for span in tracing.exporter.get_finished_spans()]
    assert [("messaging.kafka.message.tombstone" in item) for item in told] == [True, False]


def test_a_failed_delivery_ends_its_span_with_the_error(settings: Settings) -> None:
    tracing = Traced(settings, one_in=1)
    away = settings.model_copy(update={"brokers": "127.0.0.1:1"})
    with DocumentPublisher(away, tracing=tracing, delivery_timeout_ms=300) as publisher:
        publisher.upsert("a", "x")
    (span,) = tracing.exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    told = dict(span.attributes or {})
    assert (told["headrace.error"], told["error.type"]) == (True, "BrokerUnavailable")


def test_only_the_documents_that_tracing_wants_get_a_span(settings: Settings) -> None:
    tracing = Traced(settings, one_in=4)
    with DocumentPublisher(settings, tracing=tracing) as publisher:
        for number in range(200):
            publisher.upsert(str(number), "x")
    spans = {span.context.trace_id for span in tracing.exporter.get_finished_spans() if span.context}
    headers = [item.headers["traceparent"].decode() for item in read_topic(settings, 200)]
    assert 0 < len(spans) < 200
    contexts = [parse_traceparent(header) for header in headers]
    assert all(contexts)
    assert spans == {context.trace_id for context in contexts if context and context.trace_flags.sampled}
    assert spans == {int(header.split("-")[1], 16) for header in headers if tracing.wants(header)}


def test_a_span_open_in_the_application_is_the_parent(settings: Settings) -> None:
    tracing = Traced(settings, one_in=1)
    for publisher_tracing in (tracing, None):
        with (
            DocumentPublisher(settings, tracing=publisher_tracing) as publisher,
            tracing.tracer.start_as_current_span("request") as request,
        ):
            publisher.upsert("a", "x").result(timeout=20)
            wanted = f"{request.get_span_context().trace_id:032x}"
        assert read_topic(settings, 1 if publisher_tracing else 2)[-1].headers["traceparent"].decode()[3:35] == wanted


def test_a_span_of_the_application_that_nobody_sends_is_no_parent_and_its_trace_is_kept(settings: Settings) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(settings.model_copy(update={"trace_one_in": 1}), "test", SimpleSpanProcessor(exporter))
    not_sampled = NonRecordingSpan(SpanContext(7, 8, is_remote=False, trace_flags=TraceFlags(0)))
    with DocumentPublisher(settings, tracing=tracing) as publisher, use_span(not_sampled):
        publisher.upsert("a", "x").result(timeout=20)
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert (span.context.trace_id, span.parent) == (7, None)
    (found,) = read_topic(settings, 1)
    parent = parse_traceparent(found.headers["traceparent"].decode())
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.trace_flags.sampled) == (7, span.context.span_id, True)
