"""The records of a batch in an order in which each can say: everything up to this source offset is reflected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.dlq.making import dead_letter
from app.embed.chunks import Embedded
from app.embed.events import DeadEvent, Work
from app.event import Event
from app.kafka.producer import Record
from schemas.headers import WATERMARK_KEY, RecordHeaders
from schemas.vector_record import VectorRecord, encode_vector_record


@dataclass(frozen=True, slots=True)
class Reach:
    """What holds once a record is applied: all up to source offset `through` is reflected, as of `as_of_ms`."""

    through: int
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class RecordFactory:
    """Makes the records of one epoch and model."""

    changes_topic: str
    vectors_topic: str
    dlq_topic: str
    epoch: str
    fingerprint: str

    def document(self, work: Work, embedded: Embedded, reach: Reach) -> Record:
        """The whole document."""
        change = work.change
        value = encode_vector_record(
            VectorRecord(
                id=change.id,
                text=change.text or "",
                title=change.title,
                metadata=change.metadata,
                content_hash=work.content_hash,
                fingerprint=self.fingerprint,
                spans=tuple((chunk.start, chunk.end) for chunk in embedded.chunks),
                vectors=embedded.vectors,
            )
        )
        return self._vectors("document", work, reach, value, embedded.known)

    def delete(self, work: Work, reach: Reach) -> Record:
        """A null value: the document is gone."""
        return self._vectors("delete", work, reach, None)

    def watermark(self, partition: int, reach: Reach) -> Record:
        """A control record: nothing changed, but all up to `reach` is reflected."""
        headers = RecordHeaders(
            kind="watermark",
            source_partition=partition,
            source_offset=reach.through,
            through=reach.through,
            as_of_ms=reach.as_of_ms,
            epoch=self.epoch,
            event_time_ms=reach.as_of_ms,
        )
        return Record(self.vectors_topic, WATERMARK_KEY, b"", partition, headers.encode())

    def dead_letter(self, dead: DeadEvent) -> Record:
        """The event as it came, with the reason in Kafka Connect's headers."""
        return dead_letter(
            self.dlq_topic,
            dead.event,
            topic=self.changes_topic,
            partition=dead.event.partition,
            stage=dead.stage,
            error_class=type(dead.error).__name__,
            message=str(dead.error),
        )

    def _vectors(self, kind: str, work: Work, reach: Reach, value: bytes | None, known: int | None = None) -> Record:
        event, change = work.event, work.change
        headers = RecordHeaders(
            kind=kind,  # type: ignore[arg-type]
            source_partition=event.partition,
            source_offset=work.place,
            through=reach.through,
            as_of_ms=reach.as_of_ms,
            epoch=self.epoch,
            event_time_ms=change.event_time if change.event_time is not None else event.timestamp_ms,
            version=change.version,
            version_floor=work.version if change.version is None else None,
            stages=work.stages,
            traceparent=work.traceparent,
            known_chunks=known,
            batch=work.batch,
        )
        return Record(self.vectors_topic, change.key, value, event.partition, headers.encode())


def reaches(works: Sequence[Work], events: Sequence[Event], now_ms: int) -> list[Reach]:
    """What each of `works` may claim once its record, and those before it, are applied.

    works: of one partition, ordered by first_offset: what a change superseded is reflected only with the change
    itself, so a record reaches to just before the next one's first offset, and the last to the end of the batch.
    events: all events of the batch in that partition, in offset order.
    """
    ends = [work.first_offset - 1 for work in works[1:]] + [events[-1].offset]
    found = []
    position, as_of_ms = 0, 0
    for through in ends:
        while position < len(events) and events[position].offset <= through:
            as_of_ms = max(as_of_ms, events[position].timestamp_ms)
            position += 1
        found.append(Reach(through, min(as_of_ms, now_ms)))
    return found


def by_partition(events: Sequence[Event]) -> Mapping[int, list[Event]]:
    """The events of each partition, in their order."""
    groups: dict[int, list[Event]] = {}
    for event in events:
        groups.setdefault(event.partition, []).append(event)
    return groups
