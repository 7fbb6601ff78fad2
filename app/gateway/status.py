"""The state of all shards, for the page, for people and for /readyz."""

from __future__ import annotations

from typing import Any

from app.gateway.answer import freshness, now_ms
from app.gateway.directory import Directory, Worker
from app.settings import Settings
from schemas.document_change import utc

_RECENT = 20


def not_ready(directory: Directory) -> str | None:
    """Why not every shard can be searched; None when it can."""
    if not directory.partitions:
        return "no index worker is known"
    states = {p: _state(p, directory.owners(p)) for p in range(directory.partitions)}
    wrong = [f"shard {p} {state}" for p, state in states.items() if state != "ready"]
    return ", ".join(wrong) or None


def status_body(settings: Settings, directory: Directory, fingerprint: str, redis_state: str) -> dict[str, Any]:
    """The body of GET /status: every shard of every replica as its worker last described it, at most a second ago."""
    rows = []
    answering: dict[int, dict[str, Any]] = {}
    for partition in range(directory.partitions):
        owners = directory.owners(partition)
        if owners:
            answering[partition] = owners[0].shards[partition]
        rows += [_row(partition, owner) for owner in owners] or [_missing(partition)]
    recent = [item for worker in directory.workers.values() for item in worker.recent]
    whole = freshness(answering)
    if len(answering) < directory.partitions:
        whole |= {"as_of": None, "staleness_ms": None}
    return {
        "collection": settings.collection,
        "model": fingerprint,
        "documents": sum(shard["documents"] for shard in answering.values()),
        "chunks": sum(shard["chunks"] for shard in answering.values()),
        "as_of": whole["as_of"],
        "staleness_ms": whole["staleness_ms"],
        "freshness_objective_ms": settings.freshness_objective_ms,
        "shards": rows,
        "recent": sorted(recent, key=lambda item: str(item["indexed_time"]), reverse=True)[:_RECENT],
        "services": {"redis": redis_state},
    }


def _state(partition: int, owners: list[Worker]) -> str:
    if not owners:
        return "missing"
    return "unreachable" if owners[0].missed else str(owners[0].shards[partition]["state"])


def _row(partition: int, owner: Worker) -> dict[str, Any]:
    shard = owner.shards[partition]
    as_of_ms = shard["as_of_ms"]
    return {
        "shard": partition,
        "replica": owner.replica,
        "worker": owner.url,
        "state": "unreachable" if owner.missed else shard["state"],
        "documents": shard["documents"],
        "chunks": shard["chunks"],
        "applied_offset": shard["applied_offset"],
        "as_of": None if as_of_ms is None else utc(as_of_ms),
        "staleness_ms": None if as_of_ms is None else max(0, now_ms() - as_of_ms),
    }


def _missing(partition: int) -> dict[str, Any]:
    unknown = dict.fromkeys(("replica", "worker", "applied_offset", "as_of", "staleness_ms"))
    return {"shard": partition, "state": "missing", "documents": 0, "chunks": 0} | unknown
