"""Headers of a record on the vectors topic: what must survive a null value.

All values are ASCII so that any Kafka tool shows them.

| header | meaning |
|---|---|
| headrace-kind | `document`, `delete` (null value) or `watermark` |
| headrace-source | `partition:offset` of the change this record reflects; of a watermark, its own position |
| headrace-through | everything up to this source offset is reflected once this record is applied |
| headrace-as-of | … as of this time (ms since the epoch) |
| headrace-epoch | the life of the changes topic in which these offsets mean something |
| headrace-version | the producer's version, if it gave one |
| headrace-version-floor | else the one that its document had before, as far as it is known |
| headrace-event-time | ms since the epoch |
| headrace-stages | `produced=…,consumed=…`: ns since the epoch at which each stage ended |
| headrace-known | how many of its chunks needed no model |
| headrace-batch | W3C Trace Context of the span of its batch, where batches are traced |
| traceparent | W3C Trace Context of the producer's span |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from schemas.errors import InvalidVectorRecord

Kind = Literal["document", "delete", "watermark"]
Headers = list[tuple[str, bytes]]
Stage = Literal["produced", "consumed", "begun", "looked_up", "embedded", "published", "arrived", "applying", "visible"]
STAGES: tuple[Stage, ...] = (
    "produced",
    "consumed",
    "begun",
    "looked_up",
    "embedded",
    "published",
    "arrived",
    "applying",
    "visible",
)
# what a document waits for, or what is done with it, between two of them
STEPS: tuple[tuple[str, Stage, Stage], ...] = (
    ("wait in changes", "produced", "consumed"),
    ("wait for model", "consumed", "begun"),
    ("compare and look up", "begun", "looked_up"),
    ("embed", "looked_up", "embedded"),
    ("publish vectors", "embedded", "published"),
    ("wait in vectors", "published", "arrived"),
    ("wait for shard", "arrived", "applying"),
    ("apply", "applying", "visible"),
)
KINDS: tuple[Kind, ...] = ("document", "delete", "watermark")

# A compacted topic refuses null keys. Document ids are UTF-8, this is not: no document can take it.
WATERMARK_KEY = b"\xffheadrace-watermark"


@dataclass(frozen=True, slots=True)
class RecordHeaders:
    """The decoded headers of one vector record, delete or watermark. Times: `stages` in ns, others in ms."""

    kind: Kind
    source_partition: int
    source_offset: int
    through: int
    as_of_ms: int
    epoch: str
    event_time_ms: int
    version: int | None = None
    stages: dict[Stage, int] = field(default_factory=dict)
    traceparent: str | None = None
    version_floor: int | None = None
    known_chunks: int | None = None
    batch: str | None = None

    def encode(self) -> Headers:
        """As (name, bytes) pairs, ready for a producer."""
        headers: Headers = [
            ("headrace-kind", self.kind.encode()),
            ("headrace-source", b"%d:%d" % (self.source_partition, self.source_offset)),
            ("headrace-through", b"%d" % self.through),
            ("headrace-as-of", b"%d" % self.as_of_ms),
            ("headrace-epoch", self.epoch.encode()),
            ("headrace-event-time", b"%d" % self.event_time_ms),
        ]
        if self.version is not None:
            headers.append(("headrace-version", b"%d" % self.version))
        if self.version_floor is not None:
            headers.append(("headrace-version-floor", b"%d" % self.version_floor))
        if self.stages:
            headers.append(("headrace-stages", ",".join(f"{k}={v}" for k, v in self.stages.items()).encode()))
        if self.known_chunks is not None:
            headers.append(("headrace-known", b"%d" % self.known_chunks))
        if self.batch is not None:
            headers.append(("headrace-batch", self.batch.encode()))
        if self.traceparent is not None:
            headers.append(("traceparent", self.traceparent.encode()))
        return headers


def decode_headers(headers: Iterable[tuple[str, bytes | None]]) -> RecordHeaders:
    """Decode the headers of a record of the vectors topic. Raises InvalidVectorRecord."""
    found = {name: value for name, value in headers if value is not None}
    try:
        kind = found["headrace-kind"].decode()
        if kind not in KINDS:
            raise InvalidVectorRecord(f"unknown headrace-kind {kind!r}")
        partition, _, offset = found["headrace-source"].partition(b":")
        version, floor = found.get("headrace-version"), found.get("headrace-version-floor")
        traceparent, batch, known = (found.get(name) for name in ("traceparent", "headrace-batch", "headrace-known"))
        return RecordHeaders(
            kind=kind,
            source_partition=_int64(partition, 0),
            source_offset=_int64(offset, -1),
            through=_int64(found["headrace-through"], -1),
            as_of_ms=_int64(found["headrace-as-of"]),
            epoch=found["headrace-epoch"].decode(),
            event_time_ms=_int64(found["headrace-event-time"]),
            version=None if version is None else _int64(version, 0),
            stages=_decode_stages(found.get("headrace-stages", b"")),
            traceparent=None if traceparent is None else traceparent.decode(),
            version_floor=None if floor is None else _int64(floor),
            known_chunks=None if known is None else _int64(known, 0),
            batch=None if batch is None else batch.decode(),
        )
    except KeyError as error:
        raise InvalidVectorRecord(f"the header {error.args[0]} is missing") from error
    except ValueError as error:
        raise InvalidVectorRecord(f"a header does not parse: {error}") from error


def _decode_stages(value: bytes) -> dict[Stage, int]:
    pairs = (item.split("=", 1) for item in value.decode().split(",") if item)
    return {name: _int64(time_ns) for name, time_ns in pairs if name in STAGES}


def _int64(text: bytes | str, least: int = -(2**63)) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{number} does not fit in 64 bits")
    if number < least:
        raise ValueError(f"{number} is less than {least}")
    return number
