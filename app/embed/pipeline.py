"""The embed worker's steps, in the order on which its guarantees rest.

decode ▸ coalesce ▸ compare with what was applied ▸ chunk, cache, model, cache ▸ produce ▸ await ▸ remember.
Acknowledging is the caller's, after `process` returns: a crash anywhere before that redelivers the batch, and
every step tolerates being done again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from app.crash import crash_point
from app.embed.applied import AppliedState, AppliedStore, Span, Verdict, judge, short_fingerprint, state_after
from app.embed.chunks import ChunkEmbedder, Embedded, EmbeddedBatch
from app.embed.coalesce import coalesce
from app.embed.events import DeadEvent, Work, stamp
from app.embed.records import Reach, RecordFactory, by_partition, reaches
from app.embed.spans import BatchSpans, BatchTrace
from app.event import Event
from app.kafka.producer import Position, Record
from app.observe.metrics import EmbedMetrics
from app.redis_link import RedisLink
from schemas.errors import RecordRefused, Rejected, UnembeddableText

HEADER_ROOM_BYTES = 4096  # what headers and the record's frame may add to key and value
_DELIVERY_S = 130.0  # a little more than the producer's own delivery timeout

Remembered = tuple[Work, AppliedState]


class Producer(Protocol):
    """What is needed of app.kafka.producer.RecordProducer."""

    def deliver(self, records: Sequence[Record]) -> Future[list[Position]]:
        """Queue records in order; the future is done when all are confirmed or one has failed."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """work: what has to be produced. remembered: all that counts, with the state each leaves behind."""

    work: list[Work]
    remembered: list[Remembered]
    verdicts: Counter[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the changes of a batch. good: to be produced, in order. failed: can never succeed. works: those
    that counted in the end, failed ones left out."""

    good: list[tuple[Work, Embedded]]
    failed: list[tuple[Work, Rejected]]
    remembered: list[Remembered]
    works: list[Work]


class EmbedPipeline:
    """Processes one batch at a time; called by one thread at a time.

    max_text_bytes, max_record_bytes: what is larger is dead-lettered.
    """

    def __init__(
        self,
        chunks: ChunkEmbedder,
        redis: RedisLink,
        applied: AppliedStore,
        records: RecordFactory,
        producer: Producer,
        spans: BatchSpans,
        metrics: EmbedMetrics,
        *,
        max_text_bytes: int,
        max_record_bytes: int,
    ) -> None:
        self._chunks = chunks
        self._redis = redis
        self._applied = applied
        self._records = records
        self._producer = producer
        self._spans = spans
        self._metrics = metrics
        self._max_text_bytes = max_text_bytes
        self._max_record_bytes = max_record_bytes
        self._fingerprint = short_fingerprint(records.fingerprint)

    @property
    def batch_bytes(self) -> int:
        """How much text a batch should have at most, see Embedder."""
        return self._chunks.batch_bytes

    def process(
        self, events: Sequence[Event], owns: Callable[[int], bool], first: Mapping[int, int] | None = None
    ) -> set[int]:
        """Bring the vectors topic up to what `events` say.

        events: in offset order per partition. first: by partition, the offset before which everything has been
        dealt with; default: the first event's (in a compacted topic there may be a gap between the two). owns:
        whether a partition is still ours; asked right before producing, so that a worker that was paused and lost
        it writes nothing (its events come again elsewhere).
        Returns the partitions whose events may be acknowledged.
        Raises Retriable: nothing is lost, call again with the same events.
        """
        self._metrics.batch_events.observe(len(events))
        with (
            self._metrics.batch_seconds.time(),
            self._spans.batch(len(events)) as trace,
            self._redis.batch() as redis,
        ):
            try:
                return self._process(events, owns, _spans(events, first or {}), trace)
            finally:
                self._metrics.redis_seconds.inc(redis.spent_s)

    def _process(
        self, events: Sequence[Event], owns: Callable[[int], bool], spans: Mapping[int, Span], trace: BatchTrace
    ) -> set[int]:
        works, dead = coalesce(events, self._max_text_bytes)
        stamp(works, "begun")
        trace.begun(works)
        outcome = self._embed(events, works, spans, trace)
        crash_point("embed.embedded")
        dead += [DeadEvent(work.event, "embed", error) for work, error in outcome.failed]
        self._count("superseded", len(events) - len(dead) - len(outcome.works))
        ordered = self._ordered(events, outcome.good)
        ours = {partition for partition in ordered if owns(partition)}
        crash_point("embed.checked")
        self._deliver(dead, ordered, ours)
        crash_point("embed.confirmed")
        trace.dead_letters(dead)
        self._remember(outcome.remembered, ours, spans)
        crash_point("embed.remembered")
        return ours

    def _embed(
        self, events: Sequence[Event], works: list[Work], spans: Mapping[int, Span], trace: BatchTrace
    ) -> Outcome:
        """Compare and embed.

        What fails is a dead letter, and its document stays as the other events leave it: what it superseded counts
        again, and what was compared with it is compared once more without it. The caches make that cheap.
        """
        failed: list[tuple[Work, Rejected]] = []
        while True:
            compared = self._compare(works, spans)
            embedded = self._chunks.embed(compared.work)
            stamp(compared.work, "embedded")
            trace.embedded(compared.work, embedded)
            good, broken = self._separate(compared.work, embedded)
            failed += broken
            gone = {id(work) for work, _ in broken}
            touched = {work.document for work, _ in broken}
            again = self._without(events, failed, touched, trace) if broken else []
            works = [work for work in works if work.document not in touched] + again
            if not again:
                break
            works.sort(key=lambda work: (work.event.partition, work.first_offset))
        compared.verdicts[Verdict.EMBED.value] += len(failed) - len(broken)
        for name, count in compared.verdicts.items():
            self._count(name, count)
        remembered = [pair for pair in compared.remembered if id(pair[0]) not in gone]
        return Outcome(good, failed, remembered, works)

    def _without(
        self,
        events: Sequence[Event],
        failed: list[tuple[Work, Rejected]],
        documents: set[tuple[int, str]],
        trace: BatchTrace,
    ) -> list[Work]:
        """The changes of these documents that count where what failed is left out."""
        lost = {(work.event.partition, work.event.offset) for work, _ in failed}
        rest = [event for event in events if (event.partition, event.offset) not in lost]
        works = [work for work in coalesce(rest, self._max_text_bytes)[0] if work.document in documents]
        stamp(works, "begun")
        trace.begun(works)
        return works

    def _compare(self, works: list[Work], spans: Mapping[int, Span]) -> Compared:
        """Leave out what was redelivered, is stale, or changes nothing."""
        compared = Compared([], [], Counter())
        held = dict(zip((work.document for work in works), self._applied.get(works), strict=True)) if works else {}
        since = self._applied.complete_since(spans)
        for work in works:
            before = held[work.document]
            known_from = since.get(work.event.partition, spans[work.event.partition].first)
            complete = before is not None and before.order.source_offset >= known_from
            verdict = judge(work, before, self._fingerprint, complete=complete)
            compared.verdicts[verdict.value] += 1
            if verdict is Verdict.EMBED:
                compared.work.append(work)
            if verdict in (Verdict.EMBED, Verdict.UNCHANGED):
                held[work.document] = state = state_after(work, before, self._fingerprint)
                work.version = state.order.version
                compared.remembered.append((work, state))
        crash_point("embed.compared")
        return compared

    def _separate(
        self, works: list[Work], embedded: EmbeddedBatch
    ) -> tuple[list[tuple[Work, Embedded]], list[tuple[Work, Rejected]]]:
        """What can be produced, and what never will be: the model fails on it, or it is too large."""
        good: list[tuple[Work, Embedded]] = []
        failed: list[tuple[Work, Rejected]] = []
        for work, result in zip(works, embedded.results, strict=True):
            if isinstance(result, UnembeddableText):
                failed.append((work, result))
            elif (size := self._record_size(work, result)) > self._max_record_bytes:
                reason = f"the vector record has {size} bytes, more than max_record_bytes={self._max_record_bytes}"
                failed.append((work, Rejected(reason)))
            else:
                good.append((work, result))
        return good, failed

    def _record_size(self, work: Work, result: Embedded) -> int:
        text_bytes = len((work.change.text or "").encode())
        size = text_bytes + result.vectors.nbytes + len(work.change.key) + HEADER_ROOM_BYTES
        if size * 6 <= self._max_record_bytes:
            return size  # fits even if JSON had to escape every character
        return size - text_bytes + len(self._records.document(work, result, Reach(0, 0)).value or b"")

    def _ordered(self, events: Sequence[Event], good: list[tuple[Work, Embedded]]) -> dict[int, list[Record]]:
        """Per partition its records, each with how far it reaches; a watermark where there are none."""
        stamp([work for work, _ in good], "published")
        now_ms = time.time_ns() // 1_000_000
        ordered: dict[int, list[Record]] = {}
        for partition, own_events in by_partition(events).items():
            own = [pair for pair in good if pair[0].event.partition == partition]
            limits = reaches([work for work, _ in own], own_events, now_ms)
            ordered[partition] = [
                self._record(work, result, reach) for (work, result), reach in zip(own, limits, strict=False)
            ] or [self._records.watermark(partition, limits[-1])]
        return ordered

    def _record(self, work: Work, result: Embedded, reach: Reach) -> Record:
        if work.change.op == "delete":
            return self._records.delete(work, reach)
        return self._records.document(work, result, reach)

    def _deliver(self, dead: list[DeadEvent], ordered: dict[int, list[Record]], ours: set[int]) -> None:
        records = [self._records.dead_letter(item) for item in dead if item.event.partition in ours]
        self._count("dead_letter", len(records))
        for partition in sorted(ours):
            records += ordered[partition]
        crash_point(
            "embed.some_confirmed",
            lambda: self._producer.deliver(records[: len(records) // 2]).result(_DELIVERY_S),
        )
        try:
            self._producer.deliver(records).result(_DELIVERY_S)
        except Rejected as error:
            names = ", ".join(sorted({record.topic for record in records}))
            raise RecordRefused(
                f"{error}. Nothing was skipped: raise max.message.bytes of {names}, then start again"
            ) from error

    def _remember(self, pairs: list[Remembered], ours: set[int], spans: Mapping[int, Span]) -> None:
        pairs = [pair for pair in pairs if pair[0].event.partition in ours]
        own_spans = {partition: span for partition, span in spans.items() if partition in ours}
        self._applied.put([work for work, _ in pairs], [state for _, state in pairs], own_spans)

    def _count(self, outcome: str, count: int) -> None:
        self._metrics.events.labels(outcome).inc(count)


def _spans(events: Sequence[Event], first: Mapping[int, int]) -> dict[int, Span]:
    return {
        partition: Span(min(first.get(partition, own[0].offset), own[0].offset), own[-1].offset + 1)
        for partition, own in by_partition(events).items()
    }
