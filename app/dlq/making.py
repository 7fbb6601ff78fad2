"""A record that nobody can use, as the dead letter that says why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from app.kafka.producer import Record
from schemas.dead_letter import DeadLetter


class AsRead(Protocol):
    """What app.event.Event and app.shard.outbox.RejectedRecord have in common."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


def dead_letter(
    to: str, record: AsRead, *, topic: str, partition: int, stage: str, error_class: str, message: str
) -> Record:
    """The record as it came, with the reason in Kafka Connect's headers. to: the dead-letter topic. topic, partition:
    where it was read."""
    now_ms = time.time_ns() // 1_000_000
    letter = DeadLetter(topic, partition, record.offset, stage, error_class, message, now_ms)
    return Record(to, record.key, record.value, None, letter.headers(record.headers))
