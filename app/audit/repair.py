"""Mending what an audit of a partition found, through the topics: nothing is written into a shard by hand.

- A row of a shard is mended by its record, produced to `.vectors` once more.
- What no record knows is deleted by a record that comes after what the shard holds.
- A change that was lost, or that only a shard knows, is produced to `.changes` once more, after Redis forgot it.
- A claim of Redis that is too high is deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from app.audit.compare import Finding
from app.audit.fold import LastChange
from app.audit.partition import PartitionAudit, Suspects, Tell
from app.event import Event
from app.kafka.producer import Position, Record, RecordProducer
from app.order import DocumentOrder
from app.settings import Settings
from app.shard.held_rows import ShardRow
from schemas.errors import RequestError
from schemas.headers import RecordHeaders

_DELIVERY_S = 130.0
_ROUNDS = 5  # a document that changes right beside its repair
_AGAIN_S = 0.2


class Repair:
    """Of one partition, after its audit. timeout_s: how long shards and embed worker may take to follow."""

    def __init__(
        self, settings: Settings, audit: PartitionAudit, producer: RecordProducer, timeout_s: float, tell: Tell
    ) -> None:
        self._settings = settings
        self._audit = audit
        self._producer = producer
        self._timeout_s = timeout_s
        self._tell = tell
        self.produced = 0

    async def mend(self, findings: Sequence[Finding]) -> list[Finding]:
        """Mend; returns what is still wrong. What could not be looked at again is among the audit's problems.

        Raises BrokerUnavailable, Rejected.
        """
        audit = self._audit
        await audit.read_on()
        for finding in findings:
            if audit.remembered is not None and finding.kind in ("redis_ahead", "lost", "ahead"):
                await asyncio.to_thread(audit.remembered.forget, audit.partition, finding.id)
        again = {finding.id for finding in findings if finding.kind in ("lost", "ahead")}
        ends = [await self._change_again(document_id) for document_id in sorted(again)]
        rows = {finding.id for finding in findings if finding.replica is not None} - again
        holds = await self._rows([finding for finding in findings if finding.id in rows])
        for done, document_id in enumerate(sorted(rows)):
            self._tell(f"mending partition {audit.partition}", done + 1, len(rows))
            await self._record_again(document_id, holds.get(document_id, []))
        await self._reflected(max((end.offset for end in ends if end is not None), default=-1))
        for shard in tuple(audit.shards):
            try:
                await shard.reach(audit.vectors_end)
            except RequestError as error:
                audit.problems.append(str(error))
                audit.shards.remove(shard)
        return await audit.settled(Suspects.of(findings))

    async def _rows(self, findings: Iterable[Finding]) -> dict[str, list[ShardRow]]:
        """What each shard with a finding holds of its document now."""
        wrong = Suspects.of(findings).shards
        found: dict[str, list[ShardRow]] = {}
        for shard in self._audit.shards:
            try:
                async for _, held in shard.rows(sorted(wrong.get(shard.replica, ())), 0):
                    for row in held.rows:
                        found.setdefault(row.id, []).append(row)
            except RequestError as error:
                self._audit.problems.append(str(error))
        return found

    async def _record_again(self, document_id: str, rows: Sequence[ShardRow]) -> None:
        audit = self._audit
        for _ in range(_ROUNDS):
            state = audit.vectors.now(document_id)
            newest = _newest(rows)
            if state is not None and not (newest is not None and state.deleted and _refused(state.order, newest)):
                event = await self._one(self._settings.vectors_topic, state.offset)
                if event is None:
                    return  # compacted away: a newer one is there
                position = await self._produce(_same(event, self._settings.vectors_topic))
            elif newest is not None:
                position = await self._produce(self._delete_after(document_id, newest))
            else:
                return
            await audit.read_on(position.offset + 1)
            now = audit.vectors.now(document_id)
            if now is not None and now.offset == position.offset:
                return
            # a newer record came in between: compaction would keep the older one, which now is the last

    async def _change_again(self, document_id: str) -> Position | None:
        """Produce the last change of a document once more; None where it is not the last event of its key."""
        changes = self._audit.changes
        last: LastChange | None = changes.states.get(document_id)
        if last is None or changes.ends.get(document_id) != last.offset:
            return None
        event = await self._one(self._settings.changes_topic, last.offset)
        return None if event is None else await self._produce(_same(event, self._settings.changes_topic))

    async def _reflected(self, change_offset: int) -> None:
        """Wait until the embed worker says that it is past a change."""
        audit, deadline = self._audit, time.monotonic() + self._timeout_s
        await audit.read_on()
        while audit.vectors.through < change_offset:
            if time.monotonic() > deadline:
                audit.problems.append(
                    f"partition {audit.partition}: change {change_offset}, produced once more, is not embedded yet. "
                    "Is an embed worker running (`headrace status`)?"
                )
                return
            await asyncio.sleep(_AGAIN_S)
            await audit.read_on()

    async def _one(self, topic: str, offset: int) -> Event | None:
        return await asyncio.to_thread(self._audit.reader.one, topic, self._audit.partition, offset)

    async def _produce(self, record: Record) -> Position:
        (position,) = await asyncio.to_thread(self._producer.deliver([record]).result, _DELIVERY_S)
        self.produced += 1
        return position

    def _delete_after(self, document_id: str, row: ShardRow) -> Record:
        """A delete that comes right after what a shard holds. It reaches no further than the log already says."""
        audit = self._audit
        headers = RecordHeaders(
            kind="delete",
            source_partition=audit.partition,
            source_offset=row.source_offset + 1,
            through=audit.vectors.through,
            as_of_ms=audit.vectors.as_of_ms,
            epoch=audit.epoch,
            event_time_ms=time.time_ns() // 1_000_000,
            version=row.version,
        )
        topic = self._settings.vectors_topic
        return Record(topic, document_id.encode(), None, audit.partition, headers.encode())


def _same(event: Event, topic: str) -> Record:
    return Record(topic, event.key, event.value, event.partition, event.headers)


def _newest(rows: Sequence[ShardRow]) -> ShardRow | None:
    """The row that comes last, of several replicas."""
    newest: ShardRow | None = None
    for row in rows:
        if newest is None or row.order.supersedes(newest.order):
            newest = row
    return newest


def _refused(order: DocumentOrder, row: ShardRow) -> bool:
    """Whether a shard that holds `row` takes no record of this order."""
    return not order.supersedes(row.order) and order.source_offset != row.source_offset
