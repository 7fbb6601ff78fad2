"""Why an answer was stale: who had the shard then, as the gateway knew, and what had just been broken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx

SPELL_S = 10.0  # longer than any single fault lasts
_WORSE_S = 1.0
_ROWS = ("replica", "worker", "state", "paused", "applied_offset", "staleness_ms")


@dataclass(frozen=True, slots=True)
class Stale:
    """One spell of stale answers of a shard, as it was when they were stalest.

    at_s: since the start. seconds: how long it was seen. answered: the owner with the nearest staleness.
    owners: of every replica, the preferred one first. faults: of the last half minute, with their age.
    """

    at_s: float
    shard: str
    staleness_s: float
    seconds: float
    answered: str
    owners: list[dict[str, Any]]
    embed_workers: list[dict[str, Any]] | None
    faults: list[str]


class StalenessLog:
    """Called by one thread with every answer. names: of roles, by URL. recent_faults: those that may matter now."""

    def __init__(self, gateway: str, names: Mapping[str, str], recent_faults: Callable[[], list[str]]) -> None:
        self._gateway = gateway
        self._names = names
        self._recent_faults = recent_faults
        self._began = time.monotonic()
        self._running: dict[str, tuple[float, Stale]] = {}
        self.spells: list[Stale] = []

    def see(self, client: httpx.Client, shards: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What an answer says of its shards; returns in words the spells that are over."""
        over = []
        for shard, said in shards.items():
            staleness_s = (said["staleness_ms"] or 0) / 1000
            running = self._running.get(shard)
            if staleness_s > SPELL_S:
                if running is None or staleness_s > running[1].staleness_s + _WORSE_S:
                    began = time.monotonic() if running is None else running[0]
                    self._running[shard] = began, self._looked_at(client, shard, staleness_s)
            elif running is not None:
                over.append(self._end(shard))
        return over

    def finish(self) -> None:
        """What still is stale counts, too."""
        for shard in list(self._running):
            self._end(shard)

    def figures(self) -> list[dict[str, Any]]:
        """For the report."""
        return [asdict(spell) for spell in self.spells]

    def _end(self, shard: str) -> str:
        began, spell = self._running.pop(shard)
        spell = Stale(**{**asdict(spell), "seconds": time.monotonic() - began})
        self.spells.append(spell)
        return f"shard {shard} was up to {spell.staleness_s:.1f} s stale, told by {spell.answered}"

    def _looked_at(self, client: httpx.Client, shard: str, staleness_s: float) -> Stale:
        try:
            status = client.get(f"{self._gateway}/status").json()
        except httpx.HTTPError:
            status = {"shards": [], "embed_workers": None}
        rows = [row for row in status["shards"] if str(row["shard"]) == shard and row["staleness_ms"] is not None]
        owners = [{name: row[name] for name in _ROWS} for row in rows]
        for owner in owners:
            owner["worker"] = self._names.get(owner["worker"], owner["worker"])
        nearest = min(owners, key=lambda owner: abs(owner["staleness_ms"] / 1000 - staleness_s), default=None)
        answered = "nobody known" if nearest is None else f"{nearest['worker']} ({nearest['state']})"
        at_s = time.monotonic() - self._began
        return Stale(at_s, shard, staleness_s, 0.0, answered, owners, status["embed_workers"], self._recent_faults())
