"""What GET /status says of documents: how fast they became visible, and whether searches found them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from app.freshness.recent import whole
from app.gateway.directory import Directory
from app.settings import Settings


def documents_freshness(settings: Settings, directory: Directory) -> dict[str, Any]:
    """Of all workers that answer; what one that does not answer told last is too old to count."""
    told = [
        (worker.replica, worker.freshness)
        for worker in directory.workers.values()
        if not worker.missed and worker.freshness is not None
    ]
    return whole(told, settings.freshness_objective_ms, settings.freshness_objective_ratio)


def checks(directory: Directory) -> dict[str, Any]:
    """probes: how many ended how since the workers started. drift: null until a shard was looked at."""
    probes: Counter[str] = Counter()
    drift: list[int] = []
    for worker in directory.workers.values():
        if not worker.missed:
            probes.update(worker.checks.get("probes") or {})
            found = worker.checks.get("drift") or {}
            drift += [count for partition, count in found.items() if int(partition) in worker.shards]
    return {"probes": dict(probes), "drift": sum(drift) if drift else None}
