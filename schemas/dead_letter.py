"""Dead letters: the original key, value and headers untouched, with Kafka Connect's error headers added.

Header names follow Kafka Connect's DeadLetterQueueReporter (KIP-298), so that tools for it work here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.errors import InvalidDeadLetter

PREFIX = "__connect.errors."
REPLAYS_HEADER = "headrace-dlq-replays"  # how many times an event was replayed, its ancestors included
PLACE_HEADER = "headrace-dlq-place"  # the source offset by which a replayed event is ordered; absent if forced
SOURCE_HEADER = "headrace-dlq-source"  # `partition:offset` of the event that a replayed one repeats, in the same topic

_INT64_DIGITS = 19

Headers = Iterable[tuple[str, bytes | None]]


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

    def headers(self, original: Headers) -> list[tuple[str, bytes | None]]:
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


def decode_dead_letter(headers: Headers) -> DeadLetter:
    """Read the error headers back; the last of each name counts. Raises InvalidDeadLetter if they are not ours."""
    found = {
        name.removeprefix(PREFIX): value for name, value in headers if name.startswith(PREFIX) and value is not None
    }
    try:
        return DeadLetter(
            topic=found["topic"].decode(),
            partition=int(found["partition"]),
            offset=int(found["offset"]),
            stage=found["stage"].decode(),
            error_class=found["exception.class.name"].decode(),
            message=found["exception.message"].decode(),
            timestamp_ms=int(found["timestamp"]),
        )
    except KeyError as error:
        raise InvalidDeadLetter(f"the header {PREFIX}{error.args[0]} is missing") from error
    except ValueError as error:
        raise InvalidDeadLetter(f"an error header does not parse: {error}") from error


def original_headers(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Those that the event came with."""
    return [(name, value) for name, value in headers if not name.startswith(PREFIX)]


def replay_headers(headers: Headers, letter: DeadLetter, *, forced: bool) -> list[tuple[str, bytes | None]]:
    """Of the event that repeats a letter's: its original headers, how often it was replayed, and where it was.

    forced: it is to count as the newest change of its document; else it keeps its place among them.
    """
    headers = list(headers)
    own = (REPLAYS_HEADER, SOURCE_HEADER, PLACE_HEADER)
    added = [
        (REPLAYS_HEADER, b"%d" % (replay_count(headers) + 1)),
        (SOURCE_HEADER, b"%d:%d" % (letter.partition, letter.offset)),
    ]
    if not forced:
        added.append((PLACE_HEADER, b"%d" % place_of(headers, letter.offset)))
    return [*(pair for pair in original_headers(headers) if pair[0] not in own), *added]


def place_of(headers: Headers, offset: int) -> int:
    """The source offset by which the event at `offset` is ordered: its own, or that of the event which it repeats."""
    value = dict(headers).get(PLACE_HEADER) or b""
    return min(int(value), offset) if value.isdigit() and len(value) <= _INT64_DIGITS else offset


def replay_count(headers: Headers) -> int:
    """How many times the event was replayed; 0 where the header is missing or no number."""
    value = dict(headers).get(REPLAYS_HEADER) or b""
    return int(value) if value.isdigit() else 0


def replay_source(headers: Headers) -> tuple[int, int] | None:
    """Partition and offset of what a replayed event repeats; None for any other event."""
    partition, _, offset = (dict(headers).get(SOURCE_HEADER) or b"").partition(b":")
    return (int(partition), int(offset)) if partition.isdigit() and offset.isdigit() else None
