"""Publishes changes and keeps how far the partitions have come."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.kafka.producer import Position
from producers.publisher import DocumentPublisher
from schemas.document_change import DocumentChange

_CONFIRMED_WITHIN_S = 120.0


@dataclass(slots=True)
class Reached:
    """Highest source offset by partition; `confirmed` is a `Delivered` callback for `DocumentPublisher.send`."""

    offsets: dict[int, int] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def confirmed(self, position: Position | None, error: Exception | None) -> None:
        """Called once per change, from the producer's thread."""
        with self._lock:
            if position is None:
                self.errors.append(error or RuntimeError("no position"))
            elif position.offset > self.offsets.get(position.partition, -1):
                self.offsets[position.partition] = position.offset


@dataclass(frozen=True, slots=True)
class Published:
    """began, ended: time.monotonic() of the first produce and of the last confirmation."""

    offsets: dict[int, int]
    began: float
    ended: float


def publish(publisher: DocumentPublisher, changes: Iterable[DocumentChange]) -> Published:
    """Publish all as fast as it goes and wait until they are confirmed. Raises the first error."""
    reached = Reached()
    began = time.monotonic()
    for change in changes:
        publisher.send(change, reached.confirmed)
    publisher.flush(_CONFIRMED_WITHIN_S)
    ended = time.monotonic()
    if reached.errors:
        raise reached.errors[0]
    return Published(reached.offsets, began, ended)


def upsert(document_id: str, text: str, title: str | None = None, version: int | None = None) -> DocumentChange:
    """A change that happens now."""
    return DocumentChange(
        op="upsert", id=document_id, text=text, title=title, version=version, event_time=time.time_ns() // 1_000_000
    )
