"""Documents through real Kafka and Redis, and what can then be found of them in a real Jaeger."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from opentelemetry.trace import SpanKind, use_span

from app.freshness.probe import Probed
from app.freshness.traces import FreshnessTraces
from app.local.jaeger import LocalJaeger
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from app.observe.tracing import Tracing
from app.settings import Settings
from producers import DocumentPublisher
from schemas.headers import STEPS
from tests.jaeger import JaegerQueries, Span, assert_whole
from tests.services_local import eventually, jaeger_or_skip
from tests.stack import Stack, unique
from tests.unit.freshness.test_traces import TIMES, applied

pytestmark = [pytest.mark.jaeger, pytest.mark.kafka, pytest.mark.redis]

RARE = 2**31 - 1
BOTH = ("index", "index-b")
STEP_NAMES = [*(name for name, _, _ in STEPS), "probe"]


@pytest.fixture(scope="module")
def jaeger() -> Iterator[LocalJaeger]:
    jaeger_or_skip()
    with LocalJaeger() as jaeger:
        yield jaeger


@pytest.fixture(scope="module")
def queries(jaeger: LocalJaeger) -> Iterator[JaegerQueries]:
    queries = JaegerQueries(jaeger.url)
    yield queries
    queries.close()


@dataclass
class Story:
    """What happened, told when all spans were sent. repeated, deleted: the traces of those changes."""

    stack: Stack
    word: str
    repeated: str = ""
    deleted: str = ""

    @property
    def stacks(self) -> tuple[Stack]:
        """For the report of a failure."""
        return (self.stack,)

    @property
    def publish(self) -> str:
        return f"publish {self.stack.settings.changes_topic}"

    @property
    def index(self) -> str:
        return f"index {self.stack.settings.vectors_topic}"


@pytest.fixture(scope="module")
def sampled(
    jaeger: LocalJaeger,
    shared_kafka: LocalKafka,
    shared_redis: LocalRedis,
    default_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    """Forty documents of which one in four is traced, indexed by two replicas; then a repetition, a delete and a poison
    event, which are traced for sure."""
    folder = tmp_path_factory.mktemp("sampled")
    given = {
        "otlp_endpoint": jaeger.otlp_url,
        "trace_one_in": 4,
        "probe_one_in": 1,
        "probe_per_s": 0,
        "freshness_objective_ms": 600_000,
    }
    with Stack(folder, shared_kafka.address, shared_redis.url, model=default_model, **given) as stack:
        stack.add_index("index-b", folder / "data-b", replica="b")
        stack.create_topics()
        stack.start()
        story, tracing = Story(stack, unique("sampled")), Tracing(stack.settings, "publish")
        texts = {f"{story.word}-{number}": f"Document {number} of {story.word}." for number in range(40)}
        with DocumentPublisher(stack.settings, tracing=tracing) as publisher:
            done = [publisher.upsert(id, text) for id, text in texts.items()]
            stack.hits(story.word, [future.result(60) for future in done], k=100, timeout_ms=60_000)
            await_probes(stack, 40, *BOTH)
            with application(tracing) as story.repeated:
                repeated = publisher.upsert(*next(iter(texts.items())))
            with application(tracing) as story.deleted:
                deleted = publisher.delete(f"{story.word}-1")
            poison = stack.produce(f"{story.word}-poison".encode(), b"no JSON")
            stack.hits(story.word, [repeated.result(60), deleted.result(60), poison], k=100, timeout_ms=60_000)
        await_probes(stack, 41, *BOTH)
        tracing.close()
        stack.stop("embed", *BOTH)  # they send what they still hold
        yield story


def await_probes(stack: Stack, count: int, *names: str) -> None:
    """Until each index worker has searched for so many documents, and found them as they should be."""
    seen = 'headrace_index_probes_total{outcome="seen"}'
    eventually(lambda: all(stack.metrics(name)[seen] == count for name in names), within_s=60)


class application:  # noqa: N801 - reads as what it is
    """Inside, a span of the calling application is open, in a trace that every one-in-four sampling wants."""

    def __init__(self, tracing: Tracing) -> None:
        self._trace = os.urandom(12).hex() + "00000004"
        traceparent = f"00-{self._trace}-{'1' * 16}-00"
        self._span = tracing.start("save", traceparent, kind=SpanKind.INTERNAL, start_ns=time.time_ns(), attributes={})
        self._open = use_span(self._span, end_on_exit=True)

    def __enter__(self) -> str:
        self._open.__enter__()
        return self._trace

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]


def children(spans: list[Span], parent: Span) -> list[Span]:
    return [span for span in spans if span.parent == parent.id]


def of_documents(story: Story, queries: JaegerQueries, service: str, operation: str) -> dict[str, list[Span]]:
    """The traces of the forty documents with such a span."""
    found = queries.traces(service, operation=operation)
    return {id: spans for id, spans in found.items() if id not in (story.repeated, story.deleted)}


def test_every_sampled_document_has_one_whole_trace_with_the_steps_of_both_replicas(
    sampled: Story, queries: JaegerQueries
) -> None:
    traces = of_documents(sampled, queries, "headrace-publish", sampled.publish)
    assert traces
    for spans in traces.values():
        root = assert_whole(spans)
        assert (root.name, root.service) == (sampled.publish, "headrace-publish")
        indexed = children(spans, root)
        assert [span.name for span in indexed] == [sampled.index] * 2
        assert {span.tags["headrace.replica"] for span in indexed} == {"0", "b"}
        for span in indexed:
            assert [step.name for step in children(spans, span)] == STEP_NAMES
            assert (span.tags["document.id"], span.tags["headrace.probe"]) == (root.tags["document.id"], "seen")
            assert span.tags["headrace.source.offset"] == root.tags["messaging.kafka.offset"]
        assert len(spans) == 1 + 2 * (1 + len(STEP_NAMES))


def test_publishers_and_index_workers_choose_the_same_one_in_four(sampled: Story, queries: JaegerQueries) -> None:
    published = of_documents(sampled, queries, "headrace-publish", sampled.publish)
    indexed = of_documents(sampled, queries, "headrace-index", sampled.index)
    assert published.keys() == indexed.keys()
    assert all(int(id[-8:], 16) % 4 == 0 for id in indexed)
    assert len(indexed) < 40


def test_a_document_is_found_by_its_id_and_leads_to_its_batch(sampled: Story, queries: JaegerQueries) -> None:
    wanted = next(iter(of_documents(sampled, queries, "headrace-publish", sampled.publish).values()))[0]
    (spans,) = queries.traces("headrace-index", {"document.id": wanted.tags["document.id"]}).values()
    (batch,) = {link for span in spans for link in span.links}
    (told,) = (span for span in queries.trace(batch[0]) if span.id == batch[1])
    assert (told.service, told.name) == ("headrace-embed", f"embed {sampled.stack.settings.changes_topic}")
    assert (wanted.trace, wanted.id) in told.links
    names = ("documents", "chunks", "chunks_embedded", "model.calls", "model.seconds", "model.runs", "model.tokens")
    assert all(told.tags[f"headrace.batch.{name}"] > 0 for name in names)
    assert told.tags["messaging.batch.message_count"] >= told.tags["headrace.batch.documents"]


def test_a_repetition_leaves_the_span_of_its_publisher_and_nothing_else(sampled: Story, queries: JaegerQueries) -> None:
    root, publish = queries.trace(sampled.repeated)
    assert (root.name, root.parent) == ("save", None)
    assert (publish.name, publish.parent) == (sampled.publish, root.id)


def test_a_delete_is_traced_under_the_span_of_the_application_that_sent_it(
    sampled: Story, queries: JaegerQueries
) -> None:
    spans = queries.trace(sampled.deleted)
    root = assert_whole(spans)
    (publish,) = children(spans, root)
    indexed = children(spans, publish)
    assert [span.tags["document.op"] for span in indexed] == ["delete", "delete"]
    assert all(span.tags["messaging.kafka.message.tombstone"] for span in (publish, *indexed))
    assert all([step.name for step in children(spans, span)] == STEP_NAMES for span in indexed)


@pytest.mark.parametrize("tag", ["headrace.error", "headrace.dead_letter"])
def test_a_dead_letter_is_found_by_its_error_and_leads_to_its_batch(
    sampled: Story, queries: JaegerQueries, tag: str
) -> None:
    operation = f"process {sampled.stack.settings.changes_topic}"
    ((letter,),) = queries.traces("headrace-embed", {tag: "true"}, operation=operation).values()
    assert letter.tags["document.id"] == f"{sampled.word}-poison"
    assert (letter.tags["error.type"], letter.tags["headrace.stage"]) == ("InvalidChange", "decode")
    ((batch_trace, batch_id),) = letter.links
    (batch,) = queries.trace(batch_trace)
    assert (batch.id, batch.tags["headrace.dead_letter"]) == (batch_id, True)


@pytest.fixture(scope="module")
def slow(
    jaeger: LocalJaeger, shared_kafka: LocalKafka, shared_redis: LocalRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """A document that nobody sampled and that takes longer than it should, with ids hashed."""
    given = {"otlp_endpoint": jaeger.otlp_url, "trace_one_in": RARE, "freshness_objective_ms": 1}
    given |= {"trace_document_ids": "hashed", "runtime": "hashing"}
    with Stack(tmp_path_factory.mktemp("slow"), shared_kafka.address, shared_redis.url, **given) as stack:
        stack.create_topics()
        stack.start()
        story, tracing = Story(stack, unique("slow")), Tracing(stack.settings, "publish")
        with DocumentPublisher(stack.settings, tracing=tracing) as publisher:
            position = publisher.upsert(story.word, f"It takes {story.word} its time.").result(60)
        stack.hits(story.word, [position], timeout_ms=60_000)
        await_probes(stack, 1, "index")
        tracing.close()
        stack.stop("embed", "index")
        yield story


def test_a_slow_document_that_nobody_sampled_is_found_by_its_slowness_and_is_whole(
    slow: Story, queries: JaegerQueries
) -> None:
    ((id, spans),) = queries.traces("headrace-index", {"headrace.slow": "true"}).items()
    assert queries.traces("headrace-index", operation=slow.index, minDuration="1ms").keys() == {id}
    assert queries.traces("headrace-index", operation=slow.index, minDuration="600s") == {}
    root = assert_whole(spans)
    assert (root.name, root.service) == (slow.index, "headrace-index")
    assert [span.name for span in children(spans, root)] == STEP_NAMES
    assert len(spans) == 1 + len(STEP_NAMES)


def test_a_hashed_id_is_found_by_its_hash_and_the_id_is_nowhere(slow: Story, queries: JaegerQueries) -> None:
    hashed = Tracing(slow.stack.settings, "any").document_id(slow.word)
    (spans,) = queries.traces("headrace-index", {"document.id": hashed}).values()
    assert slow.word not in str(spans)
    assert queries.traces("headrace-index", {"document.id": slow.word}) == {}


def test_a_failed_probe_is_found_by_its_error(jaeger: LocalJaeger, queries: JaegerQueries) -> None:
    # that a probe fails where searches lack what was applied: tests/unit/freshness/test_visibility.py
    settings = Settings(_env_file=None, otlp_endpoint=jaeger.otlp_url, collection=unique("probe"))
    tracing, now_ns = Tracing(settings, "index"), time.time_ns() - 10**10
    document = applied(flags="00", batch=None, stages={stage: now_ns + at_ns for stage, at_ns in TIMES.items()})
    probed = Probed("failed", document.headers.stages["visible"] + 1_000_000, "not returned")
    FreshnessTraces(tracing, settings).write(document, 3, slow=False, probed=probed)
    tracing.close()
    tags = {"headrace.error": "true", "headrace.probe": "failed"}
    (spans,) = queries.traces("headrace-index", tags).values()
    assert {span.name for span in spans if span.tags.get("headrace.error")} == {assert_whole(spans).name, "probe"}
