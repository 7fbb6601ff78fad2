"""What became of every change: counts, the last offset per partition, and the summary of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.kafka.producer import Delivered, Position
from producers.changes import BadInput, Change
from schemas.errors import Rejected

Say = Callable[[str], None]


@dataclass
class Tally:
    """Thread-safe: delivery reports come from another thread. `say` gets a line for everything that went wrong."""

    say: Say
    published: int = 0
    failed: int = 0
    bad_inputs: int = 0
    unconfirmed: int = 0
    stopped: str | None = None  # why reading ended before the input did
    kafka_lost: bool = False
    last_offsets: dict[int, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reporter(self, item: Change) -> Delivered:
        """The delivery report of one change."""
        return partial(self._delivered, item)

    def bad_input(self, item: BadInput) -> None:
        """Count and name it."""
        with self._lock:
            self.bad_inputs += 1
        self.say(f"{item.where}: {item.reason}")

    def end(self, unconfirmed: int) -> None:
        """All is answered, or waited for long enough."""
        self.ended = time.monotonic()
        self.unconfirmed = unconfirmed

    @property
    def seconds(self) -> float:
        """From the start to the end, or to now."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def clean(self) -> bool:
        """Everything that was read was published, and everything was read."""
        return not (self.failed or self.bad_inputs or self.unconfirmed or self.stopped)

    def summary(self, topic: str) -> dict[str, Any]:
        """As printed by --json. `last_offsets` is what the `min_offsets` of a search takes."""
        return {
            "topic": topic,
            "published": self.published,
            "failed": self.failed,
            "bad_inputs": self.bad_inputs,
            "unconfirmed": self.unconfirmed,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.published / max(self.seconds, 1e-3), 1),
            "last_offsets": {str(partition): self.last_offsets[partition] for partition in sorted(self.last_offsets)},
        }

    def _delivered(self, item: Change, position: Position | None, error: Exception | None) -> None:
        with self._lock:
            if position is not None:
                self.published += 1
                known = self.last_offsets.get(position.partition, -1)
                self.last_offsets[position.partition] = max(position.offset, known)
                return
            self.failed += 1
            self.kafka_lost = self.kafka_lost or not isinstance(error, Rejected)
        self.say(f"{item.where}: {item.change.id[:64]!r} was not published: {error}")


def summary_text(summary: dict[str, Any]) -> str:
    """The summary for people."""
    counts = [f"published {summary['published']}", f"failed {summary['failed']}", f"bad input {summary['bad_inputs']}"]
    if summary["unconfirmed"]:
        counts.append(f"unconfirmed {summary['unconfirmed']}")
    lines = [f"{'  '.join(counts)}  in {summary['seconds']:.1f} s  ({summary['per_second']:.0f}/s)"]
    if summary["stopped"]:
        lines.append(f"stopped: {summary['stopped']}")
    if summary["last_offsets"]:
        offsets = "  ".join(f"{partition}:{offset}" for partition, offset in summary["last_offsets"].items())
        lines.append(f"last offset per partition of {summary['topic']}: {offsets}")
    return "\n".join(lines)
