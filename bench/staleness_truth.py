"""What is true of a shard's freshness, known from markers alone, against what its answers report.

A marker is a change that the prober publishes itself. It was published at some moment between `sent_ms`, when it was
handed to the producer, and `confirmed_ms`, when Kafka's confirmation was there.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.meters import quantiles


@dataclass(slots=True)
class Marker:
    """One version of a marker document. Times: ms since the epoch; confirmed_ms: None while that is not known."""

    version: int
    sent_ms: float
    confirmed_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One shard in one answer. reported_ms, true_ms: staleness; the true one at its most.

    error_ms: reported less true, where the truth is an interval less its nearest end. More than 0: the answer is
    fresher than it says. lie_ms: by how much `as_of` is later than a marker that was published, but is not there.
    """

    reported_ms: float
    true_ms: float
    error_ms: float
    lie_ms: float


class Ledger:
    """The markers of one shard that no answer has shown yet. Thread-safe."""

    def __init__(self) -> None:
        self._open: defaultdict[str, dict[int, Marker]] = defaultdict(dict)
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self.went_back = 0

    def sent(self, document: str, version: int, at_ms: float) -> None:
        """A marker is about to be published. Versions of a document grow."""
        with self._lock:
            self._open[document][version] = Marker(version, at_ms)

    def confirmed(self, document: str, version: int, at_ms: float) -> None:
        """It is in Kafka for certain, and may have been seen already."""
        with self._lock:
            if (marker := self._open[document].get(version)) is not None:
                marker.confirmed_ms = at_ms

    def failed(self, document: str, version: int) -> None:
        """Kafka did not take it, as far as is known: nothing follows from its absence."""
        with self._lock:
            self._open[document].pop(version, None)

    def judge(self, found: Mapping[str, int], asked_ms: float, as_of_ms: float, reported_ms: float) -> Judged:
        """Hold an answer against the truth.

        found: the version of every marker document in the answer. asked_ms: when it was asked for; what was sent
        later is no part of the truth. reported_ms: its staleness, so that it was made at as_of_ms + reported_ms.
        """
        with self._lock:
            self._forget(found)
            hidden = [marker for own in self._open.values() for marker in own.values()]
        made_ms = as_of_ms + reported_ms
        published = [marker.confirmed_ms for marker in hidden if marker.confirmed_ms is not None]
        earliest_ms = min((marker.sent_ms for marker in hidden if marker.sent_ms <= asked_ms), default=made_ms)
        latest_ms = min((at_ms for at_ms in published if at_ms <= asked_ms), default=made_ms)
        lie_ms = max(0.0, as_of_ms - min(published, default=as_of_ms))
        error_ms = max(0.0, earliest_ms - as_of_ms) - max(0.0, as_of_ms - latest_ms)
        return Judged(reported_ms, max(0.0, made_ms - earliest_ms), error_ms, lie_ms)

    def _forget(self, found: Mapping[str, int]) -> None:
        for document, seen in self._seen.items():
            self.went_back += found.get(document, -1) < seen
        for document, version in found.items():
            self._seen[document] = max(version, self._seen.get(document, -1))
            self._open[document] = {
                number: marker for number, marker in self._open[document].items() if number > version
            }


@dataclass(slots=True)
class Tally:
    """What was judged in one phase, in one mode. by_design_ms: what may lie between two that report anything."""

    by_design_ms: float = 0.0
    judged: list[Judged] = field(default_factory=list)
    not_answered: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, object]:
        """For the report; times in ms."""
        lies = [item.lie_ms for item in self.judged if item.lie_ms > 0]
        errors = [abs(item.error_ms) for item in self.judged]
        return {
            "judged": len(self.judged),
            "not_answered": dict(self.not_answered),
            "lies": len(lies),
            "largest_lie_ms": max(lies, default=0.0),
            "most_reported_ms": max((item.reported_ms for item in self.judged), default=0.0),
            "most_true_ms": max((item.true_ms for item in self.judged), default=0.0),
            "by_design_ms": self.by_design_ms,
            "error_ms": quantiles(errors),
            "beyond_design_ms": quantiles([max(0.0, error - self.by_design_ms) for error in errors]),
        }
