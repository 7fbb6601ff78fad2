"""How long deleted documents stay visible somewhere: joined from what the replicas say of each delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from app.observe.metrics import GatewayMetrics

MOST_OPEN = 10_000
LATEST_S = 600.0
FIRST = "now"  # asks a worker for its deletes from now on


@dataclass(slots=True)
class _Open:
    """A delete that not every replica has told of. live: one of them applied it as it came, not to catch up."""

    sent_ms: int
    since_s: float
    live: bool = False
    invisible_ms: dict[str, int] = field(default_factory=dict)
    replicas: frozenset[str] | None = None


class DeleteWatch:
    """Lives in the gateway's event loop. Observes a delete once every replica that has its shard has told of it.

    A delete that all replicas read to catch up is not observed: it is not known what they said of it before.
    """

    def __init__(self, metrics: GatewayMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._known: dict[str, tuple[str, int]] = {}
        self._open: dict[tuple[int, int], _Open] = {}
        self._began = False

    def after(self, url: str) -> str:
        """The parameter `deletes_after` for that worker: what was heard of it already."""
        if url in self._known:
            life, count = self._known[url]
            return f"{life}:{count}"
        return ":0" if self._began else FIRST

    def heard(self, url: str, replica: str, told: Any) -> None:
        """What a worker tells of its deletes since. Raises KeyError or TypeError if it is nothing of the kind."""
        if told is None:
            return  # of an older version
        before = self._known.get(url)
        if before is not None and before[0] == told["life"] and told["first"] > before[1]:
            self._metrics.deletes_missed.labels("unheard").inc(told["first"] - before[1])
        self._known[url] = (told["life"], told["first"] + len(told["items"]))
        for item in told["items"]:
            place = (item["shard"], item["source_offset"])
            found = self._open.setdefault(place, _Open(item["sent_ms"], self._clock()))
            found.live = found.live or item["live"]
            found.invisible_ms.setdefault(replica, item["invisible_ms"])

    def settle(self, replicas: Callable[[int], Collection[str]]) -> None:
        """After each round: observe what all have told of, give up what some have not for ten minutes.

        replicas: the replicas that have a shard.
        """
        self._began = True
        oldest_s = self._clock() - LATEST_S
        for place, found in list(self._open.items()):
            if found.replicas is None:  # those that there were: one that comes later may never see the delete
                found.replicas = frozenset(replicas(place[0]))
            if found.replicas <= found.invisible_ms.keys():
                del self._open[place]
                self._observe(found)
            elif found.since_s < oldest_s or len(self._open) > MOST_OPEN:
                del self._open[place]
                self._metrics.deletes_missed.labels("unconfirmed").inc(found.live)

    def _observe(self, found: _Open) -> None:
        if found.live:
            last_ms = max(found.invisible_ms.values())
            self._metrics.delete_everywhere.observe(max(0, last_ms - found.sent_ms) / 1000)
