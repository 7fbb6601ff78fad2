"""A record as it was read from a topic, free of the client that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Event(NamedTuple):  # the cheapest to make; there are thousands a second
    """One record read from Kafka. timestamp_ms: Kafka's. consumed_ns: when we got it.

    generation: of the consumer group when it was fetched; an event of an older one will come again.
    receipt: what acknowledges it, opaque here."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_ms: int
    consumed_ns: int
    generation: int = 0
    receipt: Any = None

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.value) if self.value is not None else 0
