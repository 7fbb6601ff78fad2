"""How far the workers are behind what Kafka holds. Kafka is asked, not they: who is paused or dead cannot hide it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from app.event import Event
from app.kafka.offsets import GroupOffsets
from app.kafka.reading import Span, TopicReader
from app.settings import Settings
from schemas.errors import HeadraceError, RecordUnreadable, TopicsWrong

if TYPE_CHECKING:
    from app.gateway.directory import Directory

log = logging.getLogger("headrace.lag")

_SILENCE_S = 5.0
_FETCH_KB = 64  # one record is wanted; a larger one is given all the same
_ROUND_S = 5.0  # longer than a round of asking the index workers takes
_EXPIRES_S = 30.0  # beyond the interval; longer than every timeout of one question together usually takes
_NO_NUMBERS = {"records": None, "seconds": None}

Places = Mapping[int, int]  # by partition, the offset of the next record to be taken
Firsts = Callable[[str, Mapping[int, Span]], dict[int, Event]]


@dataclass(frozen=True, slots=True)
class Lag:
    """records: from the first that was not taken to the end. since_ms: Kafka's time of that one; None: none waits."""

    records: int
    since_ms: int | None

    @property
    def seconds(self) -> float:
        """How long the first one has waited by now; 0 where none waits."""
        return 0.0 if self.since_ms is None else max(0.0, time.time() - self.since_ms / 1000)

    def body(self) -> dict[str, Any]:
        """For GET /status."""
        return {"records": self.records, "seconds": round(self.seconds, 3)}


_NONE = Lag(0, None)


@dataclass(frozen=True, slots=True)
class LagReport:
    """What Kafka said at `at` (monotonic seconds). embed: by partition; index: by replica and shard, where told."""

    at: float
    partitions: int
    embed: Mapping[int, Lag]
    index: Mapping[str, Mapping[int, Lag]]
    dead_letters: int | None

    def rows(self) -> Iterator[tuple[str, int, str, Lag]]:
        """Stage, partition, replica (of the embed workers: none), lag."""
        yield from (("embed", partition, "", lag) for partition, lag in self.embed.items())
        for replica, lags in self.index.items():
            yield from (("index", partition, replica, lag) for partition, lag in lags.items())

    def of_shard(self, partition: int) -> Lag | None:
        """Of the replica that is farthest behind; None where no replica tells."""
        return max(
            (lags[partition] for lags in self.index.values() if partition in lags),
            key=lambda lag: (lag.records, lag.seconds),
            default=None,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """The first record of [looked_from, …) is at `offset`; since_ms None: there is none before `offset`."""

    looked_from: int
    offset: int
    since_ms: int | None

    def answers(self, place: int, end: int) -> bool:
        if self.since_ms is None:
            return self.looked_from <= place and end <= self.offset
        return self.looked_from <= place <= self.offset


class FirstWaiting:
    """Finds the first record that waits; a partition is read only where that may have become another one.

    The end of a topic alone does not say that something waits: the marker of a transaction and the hole that
    compaction leaves take offsets, too.
    """

    def __init__(self, read: Firsts) -> None:
        self._read = read
        self._found: dict[tuple[str, str, int], _Found] = {}

    def lags(self, topic: str, reader: str, places: Places, spans: Mapping[int, Span]) -> dict[int, Lag]:
        """By partition of `places`. reader: whose places they are. Raises what reading raises."""
        behind = {p: (max(places[p], first), end) for p, (first, end) in spans.items() if p in places}
        open_ = {p: span for p, span in behind.items() if span[0] < span[1]}
        known = {p: self._found.get((topic, reader, p)) for p in open_}
        wanted = {p: span for p, span in open_.items() if (found := known[p]) is None or not found.answers(*span)}
        events = self._read(topic, wanted) if wanted else {}
        for partition, (place, end) in wanted.items():
            event = events.get(partition)
            self._found[topic, reader, partition] = (
                _Found(place, end, None) if event is None else _Found(place, event.offset, event.timestamp_ms)
            )
        return {
            p: self._lag(self._found[topic, reader, p], end) if p in open_ else _NONE for p, (_, end) in behind.items()
        }

    @staticmethod
    def _lag(found: _Found, end: int) -> Lag:
        return _NONE if found.since_ms is None else Lag(end - found.offset, found.since_ms)


def first_records(reader: TopicReader, topic: str, spans: Mapping[int, Span]) -> dict[int, Event]:
    """By partition, the first record of its span, where there is one.

    One that Kafka cannot give or has no time for is there all the same: since now. Raises BrokerUnavailable.
    """
    left, now_ms = dict(spans), time.time_ns() // 1_000_000
    found: dict[int, Event] = {}
    while left:
        try:
            found |= {event.partition: event for event in reader.read(topic, left, only_first=True)}
        except RecordUnreadable as error:
            found[error.partition] = Event(error.partition, left.pop(error.partition)[0], None, None, (), now_ms, 0)
        else:
            break
    return {p: event if event.timestamp_ms > 0 else event._replace(timestamp_ms=now_ms) for p, event in found.items()}


def _dead_letters(reader: TopicReader, topic: str) -> int | None:
    try:
        return sum(end - first for first, end in reader.spans(topic).values())
    except TopicsWrong:
        return None


class LagWatch:
    """Asks in a thread of its own, every `lag_interval_s`; what was said last can be had at any time.

    It neither needs Kafka nor waits for it: without an answer the lag is not known, and said not to be.
    """

    def __init__(self, settings: Settings, directory: Directory) -> None:
        self._settings = settings
        self._directory = directory
        self._report: LagReport | None = None
        self._reason: str | None = (
            "Kafka has not been asked yet" if settings.lag_interval_s else "HEADRACE_LAG_INTERVAL_S=0"
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        if self._settings.lag_interval_s:
            self._thread.start()

    def close(self) -> None:
        """Ask no more. Does not wait for an answer that is due."""
        self._stopped.set()

    def report(self) -> LagReport | None:
        """What Kafka said last; None where it did not answer, or too long ago."""
        report = self._report
        expired = report is not None and time.monotonic() - report.at > self._settings.lag_interval_s + _EXPIRES_S
        return None if expired else report

    def body(self) -> dict[str, Any]:
        """For GET /status, by partition; null: not known. index: of the replica that is farthest behind."""
        report = self.report()
        if report is None:
            shards = {str(partition): _NO_NUMBERS for partition in range(self._directory.partitions)}
            reason = self._reason or "Kafka takes too long to answer"
            return {"known": False, "reason": reason, "embed": shards, "index": shards, "dead_letters": None}
        index = {str(partition): report.of_shard(partition) for partition in range(report.partitions)}
        return {
            "known": True,
            "reason": None,
            "embed": {str(partition): lag.body() for partition, lag in report.embed.items()},
            "index": {partition: _NO_NUMBERS if lag is None else lag.body() for partition, lag in index.items()},
            "dead_letters": report.dead_letters,
        }

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._ask_until_it_fails()
            except (HeadraceError, TimeoutError) as error:
                self._unknown(str(error) or "Kafka does not answer")
            except KafkaException as error:  # a setting of the connection
                self._unknown(str(error.args[0]))
            self._stopped.wait(self._settings.lag_interval_s)

    def _ask_until_it_fails(self) -> None:
        """Over connections of its own: old ones may take long to see that Kafka is back."""
        settings = self._settings
        group = GroupOffsets.of(settings, settings.embed_group)
        with TopicReader(settings, "headrace-lag", silence_s=_SILENCE_S, prefetch_kb=_FETCH_KB) as reader:
            waiting = FirstWaiting(lambda topic, spans: first_records(reader, topic, spans))
            while not self._stopped.is_set():
                self._report, self._reason = self._asked(reader, group, waiting), None
                self._stopped.wait(settings.lag_interval_s)

    def _unknown(self, reason: str) -> None:
        if self._reason != reason:
            log.info("how far the workers are behind is not known: %s", reason)
        self._report, self._reason = None, reason

    def _asked(self, reader: TopicReader, group: GroupOffsets, waiting: FirstWaiting) -> LagReport:
        """Ends first, then who has come how far: what comes in between is no lag."""
        changes, vectors = self._settings.changes_topic, self._settings.vectors_topic
        spans, ends = reader.spans(changes), reader.spans(vectors)
        begun = self._directory.begun
        letters = _dead_letters(reader, self._settings.dlq_topic)
        committed = group.committed(changes, spans)
        # where nothing was committed a worker begins at the beginning
        places = {partition: committed.get(partition, first) for partition, (first, _) in spans.items()}
        embed = waiting.lags(changes, "", places, spans)
        self._until_shards_were_asked(begun + 1)
        index = {
            replica: waiting.lags(vectors, replica, told, ends)
            for replica, told in self._directory.next_offsets().items()
        }
        return LagReport(time.monotonic(), len(ends), embed, index, letters)

    def _until_shards_were_asked(self, in_round: int) -> None:
        give_up = time.monotonic() + _ROUND_S
        while self._directory.rounds < in_round and time.monotonic() < give_up:
            if self._stopped.wait(0.05):
                return
