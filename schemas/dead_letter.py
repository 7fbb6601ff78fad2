"""Dead letters: the original key, value and headers untouched, with Kafka Connect's error headers added.

Header names follow Kafka Connect's DeadLetterQueueReporter (KIP-298), so that tools for it work here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "__connect.errors."


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why and where one event was set aside. timestamp_ms: when."""

    topic: str
    partition: int
    offset: int
    stage: str
    error_class: str
    message: str
    timestamp_ms: int

    def headers(self, original: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
        """The original headers followed by the error headers."""
        added = {
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "stage": self.stage,
            "exception.class.name": self.error_class,
            "exception.message": self.message,
            "timestamp": str(self.timestamp_ms),
        }
        return [*original, *((PREFIX + name, value.encode()) for name, value in added.items())]


def decode_dead_letter(headers: Iterable[tuple[str, bytes | None]]) -> DeadLetter:
    """Read the error headers back; the last of each name counts. Raises KeyError if one is missing."""
    found = {
        name.removeprefix(PREFIX): value.decode()
        for name, value in headers
        if name.startswith(PREFIX) and value is not None
    }
    return DeadLetter(
        topic=found["topic"],
        partition=int(found["partition"]),
        offset=int(found["offset"]),
        stage=found["stage"],
        error_class=found["exception.class.name"],
        message=found["exception.message"],
        timestamp_ms=int(found["timestamp"]),
    )
