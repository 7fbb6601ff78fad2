"""The audit of one partition: its topics folded once, every replica's shard paged through, every suspect looked at
again until it is explained or stays the same twice.

A shard says with every answer how many records it has applied, and is compared with exactly those: what is under way
is no drift, however fast it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from app.audit.compare import (
    Finding,
    claims_too_much,
    is_lost,
    same_but_for_vectors,
    same_vectors,
    shard_drift,
    told_change,
    told_log,
    told_row,
)  # fmt: skip
from app.audit.fold import ChangesFold, VectorsFold
from app.audit.letters import with_dead_letter
from app.audit.remembered import Remembered
from app.audit.shards import ReplicaShard
from app.event import Event
from app.kafka.reading import TopicReader
from app.order import DocumentOrder
from app.settings import Settings
from app.shard.held_rows import HeldRows
from schemas.errors import RequestError, TopicsWrong
from schemas.vector_record import decode_vector_record

T = TypeVar("T")
Tell = Callable[[str, int, int], object]  # what is being done, how much of it is done, of how much

_MOST_LOOKS = 10
_BETWEEN_S = 0.3
_BATCH = 500


@dataclass(slots=True)
class Suspects:
    """Ids that may be wrong: by replica in its shard, among the changes, in Redis. of: a suspect of its kind."""

    shards: dict[str, set[str]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    remembered: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Suspects:
        suspects = cls()
        for finding in findings:
            if finding.replica is not None:
                suspects.shards.setdefault(finding.replica, set()).add(finding.id)
            else:
                (suspects.lost if finding.kind == "lost" else suspects.remembered).add(finding.id)
        return suspects

    @property
    def ids(self) -> set[str]:
        """All of them."""
        return set().union(self.lost, self.remembered, *self.shards.values())


class PartitionAudit:
    """Built for one partition. shards: of each replica that can be asked. claims: of Redis, read before the topics are.

    `run` first, then `look` as often as wanted.
    """

    def __init__(
        self, settings: Settings, reader: TopicReader, epoch: str, partition: int, shards: Sequence[ReplicaShard],
        claims: Mapping[str, int], remembered: Remembered | None, tell: Tell,
    ) -> None:  # fmt: skip
        self._settings = settings
        self.reader = reader
        self.partition = partition
        self.epoch = epoch
        self.shards = list(shards)
        self._claims = claims
        self.remembered = remembered
        self._tell = tell
        self.vectors = VectorsFold(epoch, ())
        self.changes = ChangesFold(settings.max_text_bytes)
        self.vectors_end = 0
        self.changes_end = 0
        self._first_end = 0
        self.problems: list[str] = []
        self.rows = 0

    async def run(self) -> list[Finding]:
        """What is wrong. What could not be looked at is in `problems`. Raises BrokerUnavailable, Fatal."""
        dtypes: dict[str, str] = {}
        for shard in tuple(self.shards):
            if (held := await self._tried(shard, shard.head())) is not None:
                dtypes[shard.replica] = held.dtype
        self.vectors = VectorsFold(self.epoch, sorted(set(dtypes.values())))
        self._dtype_at = {replica: self.vectors.dtypes.index(dtype) for replica, dtype in dtypes.items()}
        await asyncio.to_thread(self._fold)
        self._first_end = self.vectors_end
        suspects = Suspects(lost=self._lost(), remembered=self._remembered_ahead())
        found = await asyncio.gather(*(self._tried(shard, self._paged(shard)) for shard in tuple(self.shards)))
        suspects.shards = {replica: ids for item in found if item is not None for replica, ids in [item]}
        self.vectors.follow(suspects.ids)
        return await self.settled(suspects)

    async def settled(self, suspects: Suspects) -> list[Finding]:
        """Of the suspects, those that are wrong in the same way twice in a row, or in another way at every look."""
        settled: list[Finding] = []
        last: set[tuple[str | None, str, str]] = set()
        unsettled: list[Finding] = []
        for look in range(_MOST_LOOKS):
            if not suspects.ids:
                return settled
            if look:
                await asyncio.sleep(_BETWEEN_S)
            now = {(finding.replica, finding.id, finding.kind): finding for finding in await self._look(suspects)}
            settled += [finding for key, finding in now.items() if key in last]
            unsettled = [finding for key, finding in now.items() if key not in last]
            suspects, last = Suspects.of(unsettled), set(now)
        return settled + unsettled

    async def read_on(self, vectors_end: int = 0) -> None:
        """Take what has come to the topics since, up to their ends; of `.vectors` at least up to `vectors_end`."""
        await asyncio.to_thread(self._read_on, vectors_end)

    async def _look(self, suspects: Suspects) -> list[Finding]:
        found: list[Finding] = []
        answers: list[tuple[ReplicaShard, Sequence[str], HeldRows]] = []
        for shard in tuple(self.shards):
            ids = sorted(suspects.lost.union(suspects.shards.get(shard.replica, ())))
            answers += await self._tried(shard, self._asked(shard, ids)) or []
        claims = {id: await asyncio.to_thread(self._claim, id) for id in suspects.remembered}
        # after the shards and Redis: then the topics have everything that those can have
        await self.read_on(max((held.next_offset for _, _, held in answers), default=0))
        deleted = set()
        for shard, asked, held in answers:
            found += await self._drift(
                shard, [id for id in asked if id in suspects.shards.get(shard.replica, ())], held
            )
            deleted |= {row.id for row in held.rows if row.deleted and self._is_stale_beside(row.id, row.order)}
        found += self._claimed(claims)
        return found + await asyncio.to_thread(self._lost_findings, suspects.lost - deleted)

    def _is_stale_beside(self, document_id: str, order: DocumentOrder) -> bool:
        """Whether a document's last change comes before a delete that shards still know, though Kafka forgot it."""
        change = self.changes.states.get(document_id)
        return change is not None and not change.order.supersedes(order)

    async def _drift(self, shard: ReplicaShard, ids: Sequence[str], held: HeldRows) -> list[Finding]:
        rows = {row.id: row for row in held.rows}
        found = []
        for document_id in ids:
            logged, row = self.vectors.at(document_id, held.next_offset), rows.get(document_id)
            kind = shard_drift(logged, row, self._dtype_at[shard.replica])
            if kind is None or (
                kind == "mismatched" and await self._tried(shard, self._is_rounding(shard, document_id))
            ):
                continue
            found.append(Finding(kind, self.partition, shard.replica, document_id, told_log(logged), told_row(row)))
        return found

    async def _is_rounding(self, shard: ReplicaShard, document_id: str) -> bool:
        """Whether a row differs from its record in nothing but the rounding of its vectors."""
        held = await shard.whole(document_id)
        if not held.rows or held.vectors is None:
            return False
        await self.read_on(held.next_offset)
        logged = self.vectors.at(document_id, held.next_offset)
        if logged is None or logged.deleted or logged.source_offset != held.rows[0].source_offset:
            return False
        if not same_but_for_vectors(logged, held.rows[0]):
            return False
        event = await asyncio.to_thread(self.reader.one, self._settings.vectors_topic, self.partition, logged.offset)
        if event is None or event.value is None:
            return False
        return same_vectors(decode_vector_record(event.value), held.dtype, held.vectors)

    async def _paged(self, shard: ReplicaShard) -> tuple[str, set[str]]:
        """Ids whose row differs from the log as it was when it was first read."""
        await shard.reach(self._first_end)
        unseen, suspects, what = set(self.vectors.states), set[str](), f"reading {shard}"
        total, done = len(unseen), 0
        async for page in shard.pages(self._first_end):
            for row in page.rows:
                logged = self.vectors.states.get(row.id)
                unseen.discard(row.id)
                if shard_drift(logged, row, self._dtype_at[shard.replica]) is not None:
                    suspects.add(row.id)
            done += len(page.rows)
            self._tell(what, min(done, total), total)
        self.rows += done
        return shard.replica, suspects | unseen

    async def _asked(self, shard: ReplicaShard, ids: list[str]) -> list[tuple[ReplicaShard, Sequence[str], HeldRows]]:
        return [(shard, asked, held) async for asked, held in shard.rows(ids, self._first_end)]

    async def _tried(self, shard: ReplicaShard, work: Awaitable[T]) -> T | None:
        """None, and the reason among `problems`, for a shard that cannot be audited; it is asked no more."""
        try:
            return await work
        except RequestError as error:
            self.problems.append(str(error))
            self.shards.remove(shard)
            return None

    # --- the topics; in a thread

    def _fold(self) -> None:
        settings, reader = self._settings, self.reader
        for topic, take in ((settings.vectors_topic, self.vectors.take), (settings.changes_topic, self.changes.take)):
            first, end = reader.span(topic, self.partition)
            if first and settings.embedded_broker_id is not None:
                raise TopicsWrong(f"{topic} has lost its oldest records: the embedded broker cannot be audited")
            what = f"reading {topic} {self.partition}"
            for events in _batches(reader.read(topic, {self.partition: (first, end)})):
                take(events)
                self._tell(what, events[-1].offset + 1 - first, end - first)
            if topic == settings.vectors_topic:
                self.vectors_end = end
            else:
                self.changes_end = end

    def _read_on(self, vectors_end: int) -> None:
        settings, reader = self._settings, self.reader
        end = max(reader.span(settings.vectors_topic, self.partition)[1], vectors_end)
        for events in _batches(reader.read(settings.vectors_topic, {self.partition: (self.vectors_end, end)})):
            self.vectors.take(events)
        self.vectors_end = max(self.vectors_end, end)
        end = reader.span(settings.changes_topic, self.partition)[1]
        for events in _batches(reader.read(settings.changes_topic, {self.partition: (self.changes_end, end)})):
            self.changes.take(events)
        self.changes_end = max(self.changes_end, end)

    # --- changes and Redis

    def _lost(self) -> set[str]:
        through, states = self.vectors.through, self.vectors.states
        return {
            document_id
            for document_id, change in self.changes.states.items()
            if is_lost(change, states.get(document_id), through)
        }

    def _lost_findings(self, ids: Iterable[str]) -> list[Finding]:
        lost = {}
        for document_id in sorted(ids):
            change = self.changes.states[document_id]
            if is_lost(change, self.vectors.now(document_id), self.vectors.through):
                lost[document_id] = change
        times = {(self.partition, change.offset): change.timestamp_ms for change in lost.values()}
        letters = with_dead_letter(self.reader, self._settings, times) if times else set()
        return [
            Finding("lost", self.partition, None, id, told_change(change), told_log(self.vectors.now(id)))
            for id, change in lost.items()
            if (self.partition, change.offset) not in letters
        ]

    def _remembered_ahead(self) -> set[str]:
        return {id for id, offset in self._claims.items() if claims_too_much(offset, self._known(id), self.changes_end)}

    def _known(self, document_id: str) -> int | None:
        """The last source offset that either topic has of a document."""
        logged = self.vectors.now(document_id)
        offsets = [self.changes.ends.get(document_id), None if logged is None else logged.source_offset]
        return max((offset for offset in offsets if offset is not None), default=None)

    def _claim(self, document_id: str) -> int | None:
        return None if self.remembered is None else self.remembered.claim(self.partition, document_id)

    def _claimed(self, claims: Mapping[str, int | None]) -> list[Finding]:
        found = []
        for document_id, offset in claims.items():
            known = self._known(document_id)
            if offset is not None and claims_too_much(offset, known, self.changes_end):
                topic = "nothing" if known is None else f"change {known}"
                holds = f"change {offset}"
                found.append(Finding("redis_ahead", self.partition, None, document_id, topic, holds))
        return found


def _batches(events: Iterator[Event]) -> Iterator[list[Event]]:
    while batch := list(islice(events, _BATCH)):
        yield batch
