"""What index workers write to the topics: repairs of the vectors topic, and dead letters of what they cannot apply."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from weakref import WeakKeyDictionary

from app.crash import crash_point
from app.dlq.making import dead_letter
from app.kafka.producer import Position, Record, RecordProducer
from app.observe.metrics import IndexMetrics
from app.settings import Settings
from app.shard.outbox import RejectedRecord
from app.shard.shard import Shard
from app.shard.store import WholeDocument
from schemas.headers import RecordHeaders
from schemas.vector_record import VectorRecord, encode_vector_record

log = logging.getLogger("headrace.index")

_MOST_RECORDS = 100  # of a shard and round
_MOST_BYTES = 16 * 2**20  # of their values, and one record more: all of them are in memory at once
_AGAIN_S = 30.0
_DELIVERY_S = 130.0  # a little more than the producer's own delivery timeout


class WriteBack:
    """Called by one thread at a time. clock: seconds, for tests."""

    def __init__(
        self,
        settings: Settings,
        epoch: str,
        producer: RecordProducer,
        metrics: IndexMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._epoch = epoch
        self._producer = producer
        self._metrics = metrics
        self._clock = clock
        # row of a document, its repair: when it is due, in the order of their turns
        self._due: WeakKeyDictionary[Shard, dict[tuple[int, int], float]] = WeakKeyDictionary()
        # offsets of dead letters that Kafka has, and the shard not yet forgotten: its disk may refuse that for hours
        self._confirmed: WeakKeyDictionary[Shard, set[int]] = WeakKeyDictionary()

    def run(self, shard: Shard) -> list[int]:
        """Write what the shard owes, and wait until Kafka has it.

        Returns the offsets of the rejected records that are dead letters now, until the shard has forgotten them; none
        is written twice meanwhile. A repair is done when the shard reads its own record: until then it is written again
        every 30 s. Raises Retriable, and sqlite3.ProgrammingError if the shard was closed meanwhile.
        """
        rejected = shard.outbox.rejected(_MOST_RECORDS, _MOST_BYTES)
        offsets = [record.offset for record in rejected]
        confirmed = self._confirmed.setdefault(shard, set())
        confirmed.intersection_update(offsets)
        letters = [self._dead_letter(shard.partition, item) for item in rejected if item.offset not in confirmed]
        repairs = self._repairs(shard, _MOST_BYTES - sum(map(_size, letters)))
        if repairs or letters:
            self._deliver(repairs, letters)
        confirmed.update(offsets)
        return offsets

    def _deliver(self, repairs: list[Record], letters: list[Record]) -> None:
        delivered: Future[list[Position]] = self._producer.deliver([*repairs, *letters])
        delivered.result(_DELIVERY_S)
        if repairs:
            crash_point("index.repaired")
        if letters:
            crash_point("index.dead_lettered")
        self._metrics.repairs.inc(len(repairs))
        self._metrics.dead_letters.inc(len(letters))
        for record in repairs:
            log.warning(
                "the last record of document %r in %s was not what is held: that was written again",
                *((record.key or b"").decode(errors="replace"), record.topic),
            )

    def _repairs(self, shard: Shard, room_bytes: int) -> list[Record]:
        """Those that were there the last time as well: while a shard reads on, most are repaired by what follows."""
        now, owed, due = self._clock(), shard.outbox.repairs.items(), self._due.setdefault(shard, {})
        for key in [key for key in due if key not in owed]:
            del due[key]
        for key in owed:
            due.setdefault(key, now)
        records = []
        for key in list(islice((key for key, when in due.items() if when < now), _MOST_RECORDS)):
            if room_bytes <= 0:
                break
            del due[key]
            due[key] = now + _AGAIN_S  # behind all others
            record = self._repair(shard, key[0])
            if record is not None:
                records.append(record)
                room_bytes -= _size(record)
        return records

    def _repair(self, shard: Shard, doc: int) -> Record | None:
        try:
            held = shard.whole(doc)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.ProgrammingError):
                raise
            log.exception("shard %d: the row of a document to be repaired cannot be read", shard.partition)
            return None
        if held is None:
            return None
        document, progress = held.document, held.progress
        told = RecordHeaders(
            kind="delete" if document.deleted else "document",
            source_partition=shard.partition,
            source_offset=document.source_offset,
            through=progress.through,
            as_of_ms=progress.as_of_ms or 0,
            epoch=self._epoch,
            event_time_ms=document.event_time_ms,
            version=document.version,
        )
        value = None if document.deleted else encode_vector_record(_record(held))
        return Record(self._settings.vectors_topic, document.id.encode(), value, shard.partition, told.encode())

    def _dead_letter(self, partition: int, record: RejectedRecord) -> Record:
        return dead_letter(
            self._settings.dlq_topic,
            record,
            topic=self._settings.vectors_topic,
            partition=partition,
            stage="index",
            error_class=record.error,
            message=record.message,
        )


def _size(record: Record) -> int:
    return len(record.value or b"")


def _record(held: WholeDocument) -> VectorRecord:
    document, fingerprint = held.document, held.progress.fingerprint
    return VectorRecord(
        id=document.id,
        text=document.text or "",
        title=document.title,
        metadata=document.metadata,
        content_hash=held.content_hash or b"",
        fingerprint=fingerprint or "",
        spans=held.spans,
        vectors=held.vectors,
    )
