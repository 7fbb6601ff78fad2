"""The embed worker's steps: what is embedded, what is produced, what is remembered, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from app.embed.applied import MemoryApplied, Span
from app.event import Event
from schemas.dead_letter import decode_dead_letter
from schemas.document_change import MAX_REASON_CHARS
from schemas.errors import BrokerUnavailable, EmbedderUnavailable, RecordRefused, Rejected, Retriable
from tests.unit.embed.parts import (
    NOW_MS,
    Content,
    GappyApplied,
    MoodyEmbedder,
    Parts,
    at_position,
    dead,
    event,
    folded,
    raw_event,
    vectors,
    work_of,
)


def test_a_new_document_becomes_one_record_with_its_chunks_and_how_far_it_reaches() -> None:
    parts = Parts()
    text = "One sentence about mills. " * 8
    assert parts.process(event(5, "a", text, title="Mills", metadata={"n": 1}, version=3, event_time=77)) == {0}

    (told,) = vectors(parts.producer.log)
    assert told.document is not None
    assert (told.document.id, told.document.text, told.document.title) == ("a", text, "Mills")
    assert (told.document.metadata, told.document.fingerprint) == ({"n": 1}, parts.embedder.fingerprint)
    assert (told.record.partition, told.record.key) == (0, b"a")
    assert told.document.vectors.dtype == np.float16
    assert len(told.document.spans) == len(told.document.vectors) > 1
    assert np.linalg.norm(told.document.vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)
    headers = told.headers
    assert (headers.kind, headers.source_offset, headers.through, headers.version) == ("document", 5, 5, 3)
    assert (headers.event_time_ms, headers.as_of_ms, headers.epoch) == (77, NOW_MS + 5, "epoch")
    assert list(headers.stages) == ["produced", "consumed", "begun", "looked_up", "embedded", "published"]


def test_vectors_are_kept_to_the_last_bit_where_float32_is_asked_for() -> None:
    parts = Parts(dtype="float32")
    for document_id in ("a", "b"):  # the second from the cache
        parts.process(event(5 if document_id == "a" else 6, document_id, "a mill"))
    exact = parts.embedder.embed(["a mill"])
    assert not np.array_equal(exact, exact.astype(np.float16).astype(np.float32))
    for told in vectors(parts.producer.log):
        assert told.document is not None
        assert told.document.vectors.dtype == np.float32
        np.testing.assert_array_equal(told.document.vectors, exact)


def test_without_an_event_time_the_time_of_kafka_counts() -> None:
    parts = Parts()
    parts.process(event(5, "a", "x"))
    assert vectors(parts.producer.log)[0].headers.event_time_ms == NOW_MS + 5


def test_the_trace_and_the_time_of_the_producer_go_on_with_the_document() -> None:
    parts = Parts()
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    source = event(0, "a", "x")
    headers = (("traceparent", traceparent.encode()), ("headrace-produced", b"123"))
    parts.process(source._replace(headers=headers))
    told = vectors(parts.producer.log)[0].headers
    assert told.traceparent == traceparent
    assert told.stages["produced"] == 123


def test_a_redelivered_batch_calls_no_model_and_produces_nothing_but_a_watermark() -> None:
    parts = Parts()
    batch = [event(0, "a", "x"), event(1, "b", "y"), event(2, "a"), event(3, "c", "z")]
    parts.process(*batch)
    produced, calls = parts.producer.take(), parts.embedder.calls
    assert parts.process(*batch) == {0}

    (watermark,) = vectors(parts.producer.log)
    assert (watermark.headers.kind, watermark.headers.through, watermark.headers.as_of_ms) == (
        "watermark",
        3,
        NOW_MS + 3,
    )
    assert parts.embedder.calls == calls
    assert parts.outcome("redelivered") == 3
    assert folded(produced + parts.producer.log) == {(0, "b"): ("y", None, {}), (0, "c"): ("z", None, {})}


def test_unchanged_content_is_not_embedded_again_but_moves_the_place_of_the_document() -> None:
    parts = Parts()
    parts.process(event(0, "a", "x"))
    parts.producer.take()
    parts.process(event(1, "a", "x"))
    assert [told.headers.kind for told in vectors(parts.producer.take())] == ["watermark"]
    assert (parts.embedder.calls, parts.outcome("unchanged")) == (1, 1)
    parts.process(event(1, "a", "x"))
    assert parts.outcome("redelivered") == 1


def test_a_version_older_than_the_applied_one_is_stale() -> None:
    parts = Parts()
    parts.process(event(0, "a", "new", version=7))
    parts.producer.take()
    parts.process(event(1, "a", "old", version=6))
    assert [told.headers.kind for told in vectors(parts.producer.log)] == ["watermark"]
    assert (parts.embedder.calls, parts.outcome("stale")) == (1, 1)


def test_back_to_an_earlier_text_is_a_change() -> None:
    parts = Parts()
    for offset, text in enumerate(["first", "second", "first"]):
        parts.process(event(offset, "a", text))
    assert [told.document.text for told in vectors(parts.producer.log) if told.document] == ["first", "second", "first"]
    assert parts.embedder.seen == ["first", "second"]  # the vector of the first is still in the cache


@pytest.mark.parametrize("changed", [{"metadata": {"n": 2}}, {"version": 4}])
def test_a_change_that_the_model_does_not_see_is_produced_without_the_model(changed: dict[str, Any]) -> None:
    parts = Parts()
    parts.process(event(0, "a", "x", metadata={"n": 1}))
    parts.process(event(1, "a", "x", **({"metadata": {"n": 1}} | changed)))
    first, second = vectors(parts.producer.log)
    assert first.document is not None
    assert second.document is not None
    assert first.document.vectors.tobytes() == second.document.vectors.tobytes()
    assert (second.document.metadata, second.headers.version) == (
        changed.get("metadata", {"n": 1}),
        changed.get("version"),
    )
    assert parts.embedder.calls == 1


def test_identical_texts_are_embedded_once() -> None:
    parts = Parts()
    parts.process(event(0, "a", "same"), event(1, "b", "same"), event(2, "c", "other"))
    assert sorted(parts.embedder.seen) == ["other", "same"]
    parts.process(event(3, "d", "same"))
    assert parts.embedder.texts == 2
    assert parts.sources("chunks") == {"model": 2, "batch": 1, "memory": 1, "redis": 0, "worker": 0}
    assert parts.sources("cuts") == {"chunker": 2, "batch": 1, "memory": 1, "redis": 0}


def test_without_any_cache_the_same_is_produced() -> None:
    parts = Parts(cache_bytes=0)
    for offset in range(2):
        parts.process(event(offset * 2, "a", f"text {offset}"), event(offset * 2 + 1, "b", "same"))
    assert folded(parts.producer.log) == {(0, "a"): ("text 1", None, {}), (0, "b"): ("same", None, {})}


def test_of_several_changes_to_a_document_only_the_last_is_embedded() -> None:
    parts = Parts()
    parts.process(*(event(offset, "a", f"text {offset}") for offset in range(5)))
    assert parts.embedder.seen == ["text 4"]
    assert [told.headers.through for told in vectors(parts.producer.log)] == [4]
    assert parts.outcome("superseded") == 4


def test_a_delete_is_a_null_value_with_headers() -> None:
    parts = Parts()
    parts.process(event(0, "a", "x"), event(1, "b", "y"))
    parts.producer.take()
    parts.process(event(2, "a", version=9), raw_event(3, b"b", None))
    by_id = {told.id: told for told in vectors(parts.producer.log)}
    assert {name: (told.record.value, told.headers.kind) for name, told in by_id.items()} == {
        "a": (None, "delete"),
        "b": (None, "delete"),
    }
    assert (by_id["a"].headers.version, by_id["b"].headers.through) == (9, 3)


def test_a_document_without_text_is_produced_without_the_model() -> None:
    parts = Parts()
    parts.process(event(0, "a", ""))
    (told,) = vectors(parts.producer.log)
    assert told.document is not None
    assert (told.document.spans, told.document.vectors.shape) == ((), (0, 16))
    assert parts.embedder.calls == 0


def test_each_partition_has_its_own_records_in_its_own_partition() -> None:
    parts = Parts()
    assert parts.process(event(0, "a", "x", partition=3), event(9, "a", "y", partition=1)) == {1, 3}
    told = {item.record.partition: item for item in vectors(parts.producer.log)}
    assert {partition: item.headers.through for partition, item in told.items()} == {3: 0, 1: 9}
    assert {partition: item.document.text for partition, item in told.items() if item.document} == {3: "x", 1: "y"}


# --- what can never succeed


def test_poison_goes_to_the_dead_letters_as_it_came_and_its_neighbours_go_on() -> None:
    parts = Parts()
    poison = raw_event(1, b"b", b"\xffnot json", headers=[("colour", b"red"), ("empty", None)])
    assert parts.process(event(0, "a", "x"), poison, event(2, "c", "z")) == {0}
    (letter,) = dead(parts.producer.log)
    assert (letter.key, letter.value) == (b"b", b"\xffnot json")
    assert letter.headers[:2] == [("colour", b"red"), ("empty", None)]
    told = decode_dead_letter(letter.headers)
    assert (told.topic, told.partition, told.offset, told.stage) == ("d.changes", 0, 1, "decode")
    assert (told.error_class, parts.outcome("dead_letter")) == ("InvalidChange", 1)
    assert [(item.id, item.headers.through) for item in vectors(parts.producer.log)] == [("a", 1), ("c", 2)]


def test_poison_alone_leaves_a_watermark_that_covers_it() -> None:
    parts = Parts()
    parts.process(raw_event(4, None, b"{}"))
    assert [(item.headers.kind, item.headers.through) for item in vectors(parts.producer.log)] == [("watermark", 4)]
    assert decode_dead_letter(dead(parts.producer.log)[0].headers).message.startswith("the event has no key")


def test_a_text_over_the_limit_is_dead_lettered_and_counted_in_bytes() -> None:
    parts = Parts(max_text_bytes=8)
    parts.process(event(0, "a", "éééé"), event(1, "b", "ééééé"))
    assert [item.id for item in vectors(parts.producer.log)] == ["a"]
    assert decode_dead_letter(dead(parts.producer.log)[0].headers).message == (
        "the text has 10 bytes, more than max_text_bytes=8"
    )


def test_a_delete_that_carries_a_text_over_the_limit_is_a_delete() -> None:
    parts = Parts(max_text_bytes=8)
    parts.process(event(0, "a", "short"), event(1, "a", "ééééé", op="delete"))
    assert dead(parts.producer.log) == []
    assert [(item.id, item.headers.kind) for item in vectors(parts.producer.log)] == [("a", "delete")]


def test_a_record_over_the_limit_is_dead_lettered_before_kafka_refuses_it() -> None:
    parts = Parts(max_record_bytes=6000)
    parts.process(event(0, "a", "\x00" * 1500), event(1, "b", "x" * 1500))
    assert [item.id for item in vectors(parts.producer.log)] == ["b"]  # a NUL takes six bytes of JSON
    letter = decode_dead_letter(dead(parts.producer.log)[0].headers)
    assert (letter.offset, letter.stage) == (0, "embed")
    assert "more than max_record_bytes=6000" in letter.message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda _: RuntimeError("tensor too odd"), "the model fails on this text: RuntimeError: tensor too odd"),
        (at_position, "too odd"),
        (None, "the model returned a vector that is not finite"),
    ],
)
def test_a_text_that_breaks_the_model_is_found_and_dead_lettered_alone(
    error: Callable[[int], Exception] | None, reason: str
) -> None:
    parts = Parts(MoodyEmbedder("poison", error))
    batch = [event(n, f"d{n}", "poison" if n in (3, 7) else f"text {n}") for n in range(9)]
    assert parts.process(*batch) == {0}
    letters = [decode_dead_letter(letter.headers) for letter in dead(parts.producer.log)]
    assert [(letter.offset, letter.stage, letter.message) for letter in letters] == [
        (3, "embed", reason),
        (7, "embed", reason),
    ]
    assert sorted(item.id for item in vectors(parts.producer.log)) == ["d0", "d1", "d2", "d4", "d5", "d6", "d8"]
    assert vectors(parts.producer.log)[-1].headers.through == 8


def test_a_model_that_quotes_the_text_it_fails_on_makes_no_letter_that_is_too_large() -> None:
    text = "poison" * 20_000
    parts = Parts(MoodyEmbedder("poison", lambda _: RuntimeError(text)), max_text_bytes=2**20)
    parts.process(event(0, "a", text))
    (letter,) = dead(parts.producer.log)
    message = decode_dead_letter(letter.headers).message
    assert message.startswith("the model fails on this text: RuntimeError: poison")
    assert len(message) == MAX_REASON_CHARS


def test_a_broken_text_is_not_remembered_and_is_found_again_when_it_comes_again() -> None:
    parts = Parts(MoodyEmbedder("poison", at_position))
    parts.process(event(0, "a", "poison"))
    assert parts.applied.get([work_of(event(0, "a", "poison"))]) == [None]
    parts.process(event(0, "a", "poison"))
    assert len(dead(parts.producer.log)) == 2


@pytest.mark.parametrize("bad", [0, 1])
def test_of_two_changes_that_cannot_be_compared_alone_the_good_one_is_produced_and_remembered(bad: int) -> None:
    """One with and one without a version: both are kept in a batch. What fails leaves nothing behind."""
    parts = Parts(MoodyEmbedder("poison", at_position))
    texts = ["poison" if n == bad else "good" for n in range(2)]
    batch = [event(1, "a", texts[0], version=3), event(2, "a", texts[1])]
    parts.process(event(0, "a", "before", version=1))
    parts.process(*batch)
    told = [item for item in vectors(parts.producer.take()) if item.document is not None][1:]
    assert [item.document.text for item in told if item.document] == ["good"]
    headers = told[0].headers
    assert (headers.version, headers.version_floor, headers.through) == ((None, 1, 2) if bad == 0 else (3, None, 2))
    assert (parts.outcome("embed"), parts.outcome("dead_letter")) == (3, 1)

    calls = parts.embedder.calls
    parts.process(batch[1 - bad])
    assert (parts.embedder.calls, parts.outcome("redelivered")) == (calls, 1)
    parts.process(event(3, "a", "later", version=2))  # the version 3 was never applied, if that was the bad one
    assert len([item for item in vectors(parts.producer.log) if item.document]) == (1 if bad == 0 else 0)


def test_a_change_judged_by_one_that_then_failed_is_judged_again_without_it() -> None:
    """Version 2 is older than version 3, but 3 was a dead letter: one by one, 2 would have been applied."""
    parts = Parts(MoodyEmbedder("poison", at_position))
    batch = [event(0, "a", "poison", version=3), event(1, "a", "between"), event(2, "a", "two", version=2)]
    parts.process(*batch)
    assert folded(parts.producer.log) == {(0, "a"): ("two", None, {})}
    assert (parts.outcome("stale"), parts.outcome("dead_letter"), parts.outcome("embed")) == (0, 1, 3)


@pytest.mark.parametrize("alone", [True, False], ids=["each in a batch of its own", "in one batch"])
@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([event(0, "a", "good"), event(1, "a", "poison")], {(0, "a"): ("good", None, {})}),
        ([event(0, "a", "secret"), raw_event(1, b"a", None), event(2, "a", "poison")], {}),
        ([event(0, "a", "good"), event(1, "a", "x" * 30_000)], {(0, "a"): ("good", None, {})}),
        ([event(0, "a", "poison", version=9), event(1, "a", "good", version=8)], {(0, "a"): ("good", None, {})}),
        (
            [event(0, "a", "good"), event(1, "a", "poison"), event(2, "b", "b"), event(3, "a", "poison too")],
            {(0, "a"): ("good", None, {}), (0, "b"): ("b", None, {})},
        ),
    ],
    ids=["an upsert", "a delete", "a record over the limit", "a lower version", "two that fail"],
)
def test_what_a_change_that_fails_superseded_in_its_batch_counts_again(
    alone: bool, events: list[Event], left: dict[tuple[int, str], Content]
) -> None:
    parts = Parts(MoodyEmbedder("poison", at_position), max_text_bytes=200_000, max_record_bytes=20_000)
    for batch in [[one] for one in events] if alone else [events]:
        parts.process(*batch)
    assert folded(parts.producer.log) == left
    assert len(dead(parts.producer.log)) == sum(
        "poison" in str(item.value) or len(item.value or b"") > 9999 for item in events
    )
    assert vectors(parts.producer.log)[-1].headers.through == events[-1].offset
    if not alone:
        outcomes = ("superseded", "embed", "dead_letter")
        superseded, embedded, letters = map(parts.outcome, outcomes)
        assert superseded + embedded == len(events)
        assert letters == len(dead(parts.producer.log))


# --- what may succeed later


@pytest.mark.parametrize("error", [lambda _: RuntimeError("out of memory"), lambda _: EmbedderUnavailable("gone")])
def test_a_model_that_is_down_dead_letters_nothing_and_nothing_is_remembered(
    error: Callable[[int], Exception],
) -> None:
    parts = Parts(MoodyEmbedder("", error))
    batch = [event(0, "a", "x"), event(1, "b", "y")]
    with pytest.raises(EmbedderUnavailable):
        parts.process(*batch)
    assert parts.producer.log == []
    assert parts.applied.get([work_of(item) for item in batch]) == [None, None]

    parts.embedder.error, parts.embedder.poison = None, None
    assert parts.process(*batch) == {0}
    assert folded(parts.producer.log) == {(0, "a"): ("x", None, {}), (0, "b"): ("y", None, {})}


def test_a_delivery_that_fails_is_retriable_and_nothing_is_remembered() -> None:
    parts = Parts()
    parts.producer.error, parts.producer.lose = BrokerUnavailable("no confirmation"), 1
    batch = [event(0, "a", "x"), event(1, "b", "y")]
    with pytest.raises(Retriable, match="no confirmation"):
        parts.process(*batch)
    assert parts.applied.get([work_of(item) for item in batch]) == [None, None]

    parts.producer.lose = None
    parts.process(*batch)
    assert folded(parts.producer.log) == {(0, "a"): ("x", None, {}), (0, "b"): ("y", None, {})}


# --- partitions that are ours no more


def test_a_partition_that_was_lost_on_the_way_gets_nothing_and_is_not_acknowledged() -> None:
    parts = Parts()
    parts.owned = lambda partition: partition == 1
    lost = [event(0, "a", "x", partition=0), raw_event(1, b"p", b"poison", partition=0)]
    assert parts.process(*lost, event(5, "b", "y", partition=1)) == {1}
    assert [item.record.partition for item in vectors(parts.producer.log)] == [1]
    assert dead(parts.producer.log) == []
    assert parts.applied.get([work_of(lost[0])]) == [None]


def test_ownership_is_asked_after_the_model_and_before_producing() -> None:
    parts = Parts()
    asked: list[tuple[int, int]] = []

    def owned(_: int) -> bool:
        asked.append((parts.embedder.calls, len(parts.producer.log)))
        return False

    parts.owned = owned
    assert parts.process(event(0, "a", "x")) == set()
    assert asked == [(1, 0)]
    assert parts.producer.log == []


# --- a crash between any two steps


class Crash(BaseException):
    """The process ends here."""


BATCHES = [
    [event(0, "a", "x"), event(1, "b", "y"), event(2, "a", "x2"), event(3, "c", "z", version=5)],
    [event(4, "b"), event(5, "c", "late", version=4), event(6, "a", "x"), event(7, "d", "new"), event(8, "d", "new")],
]
FINAL = {(0, "a"): ("x", None, {}), (0, "c"): ("z", None, {}), (0, "d"): ("new", None, {})}

STEPS: dict[str, Callable[[Parts], tuple[Any, str]]] = {
    "look up what was applied": lambda parts: (parts.applied, "get"),
    "cut": lambda parts: (parts.caches.cuts, "get"),
    "look up vectors": lambda parts: (parts.caches.vectors, "get"),
    "model": lambda parts: (parts.embedder, "embed"),
    "ownership": lambda parts: (parts, "owned"),
    "produce": lambda parts: (parts.producer, "deliver"),
    "remember": lambda parts: (parts.applied, "put"),
    "keep": lambda parts: (parts.caches, "keep"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_beside_any_step_leaves_the_same_documents(
    monkeypatch: pytest.MonkeyPatch, step: str, batch: int, after: bool
) -> None:
    parts = Parts()
    for own in BATCHES[:batch]:
        parts.process(*own)
    owner, name = STEPS[step](parts)
    original = getattr(owner, name)

    def crash(*arguments: Any) -> None:
        if after:
            original(*arguments)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, crash)
        with pytest.raises(Crash):
            parts.process(*BATCHES[batch])
    parts.restart()
    for own in BATCHES[batch:]:
        parts.process(*own)
    assert folded(parts.producer.log) == FINAL
    assert vectors(parts.producer.log)[-1].headers.through == 8


@pytest.mark.parametrize("written", range(5))
def test_a_crash_in_the_middle_of_producing_leaves_the_same_documents(written: int) -> None:
    parts = Parts()
    parts.process(*BATCHES[0])
    parts.producer.error, parts.producer.lose = BrokerUnavailable("killed"), written
    with pytest.raises(BrokerUnavailable):
        parts.process(*BATCHES[1])
    parts.producer.lose = None
    parts.restart()
    parts.process(*BATCHES[1])
    assert folded(parts.producer.log) == FINAL


def test_back_and_forth_in_one_batch_is_produced_after_a_crash_that_had_produced_the_forth() -> None:
    """A is remembered, B was produced when the worker was killed: then A, in one batch with B, is no repetition."""
    parts = Parts()
    parts.process(event(0, "a", "A"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts.applied, "put", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            parts.process(event(1, "a", "B"))
    parts.restart()
    parts.process(event(1, "a", "B"), event(2, "a", "A"))
    assert folded(parts.producer.log) == {(0, "a"): ("A", None, {})}


def test_a_change_without_a_version_is_not_lost_when_redis_forgot_the_highest_version() -> None:
    """The floor that the worker knows is lower than the shard's: the change still counts by its offset."""
    parts = Parts()
    parts.process(event(0, "a", "x", version=5))
    parts.applied = MemoryApplied()
    parts.restart()
    parts.process(event(1, "a", "old", version=3), event(2, "a", "new"))
    assert folded(parts.producer.log) == {(0, "a"): ("new", None, {})}


def test_a_delete_is_not_lost_behind_a_delete_whose_version_was_too_low() -> None:
    """Redis forgot the version 5: it cannot know that the shard refuses the first of the deletes."""
    parts = Parts(applied=GappyApplied())
    parts.process(event(0, "a", "x", version=5))
    parts.applied = GappyApplied()
    parts.restart()
    parts.process(event(1, "a", version=3))
    parts.process(event(2, "a"))
    assert folded(parts.producer.log) == {}


def test_a_redis_that_forgot_everything_costs_work_and_changes_nothing() -> None:
    parts = Parts()
    for batch in BATCHES:
        parts.process(*batch)
    calls = parts.embedder.calls
    parts.applied = MemoryApplied()
    parts.restart()
    for batch in BATCHES:
        parts.process(*batch)
    assert parts.embedder.calls > calls
    assert folded(parts.producer.log) == FINAL


def test_a_delete_with_a_version_closes_a_deleted_document_for_older_versions_even_if_redis_forgets() -> None:
    """The second delete changes nothing that is seen, but without its version a late upsert would be let in."""
    parts = Parts()
    parts.process(event(0, "a", "x"))
    parts.process(event(1, "a"))
    parts.process(event(2, "a", version=7))
    parts.applied = MemoryApplied()
    parts.restart()
    parts.process(event(3, "a", "late", version=5))
    assert folded(parts.producer.log) == {}


def test_a_record_that_the_topic_refuses_stops_the_worker_and_nothing_is_remembered() -> None:
    parts = Parts()
    parts.producer.error, parts.producer.lose = Rejected("the record is larger than the topic allows"), 0
    with pytest.raises(RecordRefused, match=r"larger than the topic allows.*max\.message\.bytes"):
        parts.process(event(0, "a", "x"))


class _LeakyApplied(MemoryApplied):
    """A memory that missed everything before `since`, as a Redis that was away for a while does."""

    since: int | None = None

    def complete_since(self, spans: Mapping[int, Span]) -> dict[int, int]:
        return {} if self.since is None else dict.fromkeys(spans, self.since)


def test_a_change_back_is_produced_though_an_incomplete_memory_holds_the_same_content() -> None:
    applied = _LeakyApplied()
    parts = Parts(applied=applied)
    parts.process(event(0, "a", "A"))
    parts.producer.take()
    # the change to B at offset 1 was applied, and never remembered
    parts.process(event(2, "a", "A"))
    assert [told.headers.kind for told in vectors(parts.producer.log)] == ["document"]


def test_what_is_older_than_an_incomplete_memory_is_still_known_to_be_redelivered() -> None:
    parts = Parts(applied=_LeakyApplied())
    parts.process(event(5, "a", "A"))
    parts.producer.take()
    parts.process(event(5, "a", "A"))
    assert [told.headers.kind for told in vectors(parts.producer.log)] == ["watermark"]


def test_a_change_without_a_version_hands_on_the_version_that_its_document_had() -> None:
    parts = Parts()
    parts.process(event(0, "a", "x", version=7))
    parts.process(event(1, "a", "y"))
    told = [item.headers for item in vectors(parts.producer.log)]
    assert [(headers.version, headers.version_floor) for headers in told] == [(7, None), (None, 7)]
