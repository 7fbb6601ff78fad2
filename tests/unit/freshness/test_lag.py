"""What waits in a topic for a reader: looked for only where it may have changed; a hole is never taken for a record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pytest

from app.event import Event
from app.freshness.lag import FirstWaiting, Lag, LagReport, first_records
from app.kafka.reading import Advance, Span, TopicReader
from app.observe.metrics import GatewayMetrics, exposition
from schemas.errors import RecordUnreadable


class Topic:
    """records: offset to Kafka's time, in partition 0. read: how often it was."""

    def __init__(self, *offsets: int) -> None:
        self.records = {offset: 1000 + offset for offset in offsets}
        self.reads = 0

    def firsts(self, topic: str, spans: Mapping[int, Span]) -> dict[int, Event]:
        self.reads += 1
        ((first, end),) = spans.values()
        found = min((offset for offset in self.records if first <= offset < end), default=None)
        return {} if found is None else {0: Event(0, found, None, None, (), self.records[found], 0)}


@pytest.mark.parametrize(
    ("place", "span", "expected", "reads"),
    [
        (7, (0, 7), Lag(0, None), 0),  # nothing waits: nothing is read
        (9, (0, 7), Lag(0, None), 0),
        (3, (0, 7), Lag(3, 1004), 1),  # offset 3 was compacted away
        (5, (0, 7), Lag(0, None), 1),  # the end is a marker
        (0, (4, 7), Lag(3, 1004), 1),  # what was before 4 is deleted
    ],
)
def test_lag_is_what_can_still_be_read(place: int, span: Span, expected: Lag, reads: int) -> None:
    topic = Topic(1, 4)
    assert FirstWaiting(topic.firsts).lags("t", "r", {0: place}, {0: span}) == {0: expected}
    assert topic.reads == reads


def test_a_reader_that_stands_still_costs_one_read_and_one_that_goes_back_is_looked_up_again() -> None:
    topic = Topic(2, 5)
    waiting = FirstWaiting(topic.firsts)

    def lag(place: int, end: int) -> Lag:
        return waiting.lags("t", "r", {0: place}, {0: (0, end)})[0]

    assert [lag(2, 6), lag(2, 9), lag(2, 20)] == [Lag(4, 1002), Lag(7, 1002), Lag(18, 1002)]
    assert topic.reads == 1
    assert lag(3, 20) == Lag(15, 1005)
    assert [lag(6, 20), lag(6, 20), lag(8, 20)] == [Lag(0, None)] * 3  # nothing but holes
    assert topic.reads == 3
    topic.records[20] = 1020
    assert lag(6, 21) == Lag(1, 1020)
    assert lag(0, 21) == Lag(19, 1002)  # set back
    assert topic.reads == 5


def test_readers_and_topics_are_kept_apart() -> None:
    topic = Topic(2, 5)
    waiting = FirstWaiting(topic.firsts)
    assert waiting.lags("t", "a", {0: 0}, {0: (0, 6)}) == {0: Lag(4, 1002)}
    assert waiting.lags("t", "b", {0: 3}, {0: (0, 6)}) == {0: Lag(1, 1005)}
    assert waiting.lags("t", "a", {}, {0: (0, 6)}) == {}


class HalfDamaged(TopicReader):
    """Partition 0 cannot be read, partition 1 gives a record without a time, partition 2 has none."""

    def __init__(self) -> None:
        self.asked: list[set[int]] = []

    def read(
        self, topic: str, spans: Mapping[int, Span], advance: Advance | None = None, *, only_first: bool = False
    ) -> Iterator[Event]:
        self.asked.append(set(spans))
        if 0 in spans:
            raise RecordUnreadable(topic, 0, "Bad message format")
        yield Event(1, spans[1][0], None, None, (), -1, 0)


def test_a_record_that_kafka_cannot_give_waits_all_the_same_since_it_was_met() -> None:
    before_ms = int(time.time() * 1000)
    reader = HalfDamaged()
    found = first_records(reader, "t", {0: (4, 9), 1: (5, 9), 2: (8, 9)})
    assert {partition: event.offset for partition, event in found.items()} == {0: 4, 1: 5}
    assert all(event.timestamp_ms >= before_ms for event in found.values())
    assert reader.asked == [{0, 1, 2}, {1, 2}]


def test_metrics_hold_what_the_last_report_says_and_nothing_once_there_is_none() -> None:
    metrics = GatewayMetrics()
    since_ms = int(time.time() * 1000) - 60_000
    report = LagReport(0.0, 1, {0: Lag(7, since_ms)}, {"a": {0: Lag(0, None)}, "b": {0: Lag(3, since_ms)}}, 2)
    metrics.lag.read = lambda: report
    text = exposition(metrics.registry)[0].decode()
    for sample in (
        'headrace_lag_records{partition="0",replica="",stage="embed"} 7.0',
        'headrace_lag_records{partition="0",replica="b",stage="index"} 3.0',
        'headrace_lag_seconds{partition="0",replica="a",stage="index"} 0.0',
        'headrace_lag_seconds{partition="0",replica="",stage="embed"} 60.',
        "headrace_dead_letters 2.0",
        "headrace_lag_known 1.0",
    ):
        assert sample in text, sample
    assert report.of_shard(0) == Lag(3, since_ms)
    assert report.of_shard(1) is None

    metrics.lag.read = lambda: None
    samples = [line for line in exposition(metrics.registry)[0].decode().splitlines() if not line.startswith("#")]
    assert [line for line in samples if line.startswith(("headrace_lag_", "headrace_dead"))] == [
        "headrace_lag_known 0.0"
    ]
