"""What travels between the embed worker's steps."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.event import Event
from app.order import DocumentOrder
from schemas.document_change import DocumentChange
from schemas.headers import Stage


@dataclass(slots=True)
class Work:
    """One change that counts, on its way through the steps.

    first_offset: the earliest event that this change stands for; what it superseded in the batch came after it.
    place: the source offset that orders the change: of its event or, without a version, of the dead letter that this
    one repeats. A version orders by itself.
    traceparent: the span under which the document's next stage belongs. version: that its document holds
    with this change: the change's own, or the one that is known from before. batch: the span of its batch.
    """

    event: Event
    change: DocumentChange
    content_hash: bytes
    first_offset: int
    place: int
    traceparent: str
    stages: dict[Stage, int] = field(default_factory=dict)
    version: int | None = None
    batch: str | None = None

    @property
    def document(self) -> tuple[int, str]:
        """Partition and id: what the state of a document is kept under."""
        return (self.event.partition, self.change.id)

    @property
    def order(self) -> DocumentOrder:
        """The place of this change among those of its document."""
        return DocumentOrder(self.change.version, self.place)


@dataclass(frozen=True, slots=True)
class DeadEvent:
    """An event to be dead-lettered, with the step at which it failed and why."""

    event: Event
    stage: str
    error: Exception


def stamp(works: Iterable[Work], stage: Stage) -> None:
    """Say that a stage of these changes ends now."""
    now_ns = time.time_ns()
    for work in works:
        work.stages[stage] = now_ns
