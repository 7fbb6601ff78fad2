"""The state of all shards, for the page, for people and for /readyz."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.gateway.answer import freshness, now_ms
from app.gateway.directory import Directory
from app.gateway.freshness import checks, documents_freshness
from app.gateway.worker import Worker
from app.settings import Settings
from schemas.document_change import utc

EmbedWorkers = Callable[[], "dict[str, dict[str, Any]] | None"]
"""What embed workers told Redis of themselves, by name; None where Redis cannot say."""

_RECENT = 20
_UNKNOWN = ("replica", "worker", "paused", "reason", "applied_offset", "as_of", "staleness_ms")


def not_ready(directory: Directory) -> str | None:
    """Why not every shard can be searched; None when it can. A paused shard can: see `pauses`."""
    if not directory.partitions:
        return "no index worker is known"
    owners = {partition: directory.owners(partition) for partition in range(directory.partitions)}
    wrong = [told for partition, own in owners.items() if (told := _wrong(partition, own))]
    return ", ".join(wrong) or None


def pauses(directory: Directory) -> dict[str, str]:
    """The shards that apply no changes at present, and why; they answer with what they have."""
    paused = {
        f"shard {partition} of replica {worker.replica}": shard.get("paused")
        for worker in directory.workers.values()
        if not worker.missed
        for partition, shard in worker.shards.items()
    }
    return {name: f"paused: {why}" for name, why in sorted(paused.items()) if why}


def status_body(
    settings: Settings,
    directory: Directory,
    fingerprint: str,
    redis_state: str,
    embed_workers: dict[str, dict[str, Any]] | None,
) -> dict[str, Any]:
    """The body of GET /status: every shard of every replica as its worker last described it, at most a second ago."""
    reason = not_ready(directory)
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
        "ready": reason is None,
        "reason": reason,
        "model": fingerprint,
        "documents": sum(shard["documents"] for shard in answering.values()),
        "chunks": sum(shard["chunks"] for shard in answering.values()),
        "as_of": whole["as_of"],
        "staleness_ms": whole["staleness_ms"],
        "freshness_objective_ms": settings.freshness_objective_ms,
        "freshness": documents_freshness(settings, directory),
        "checks": checks(directory),
        "shards": rows,
        "embed_workers": None if embed_workers is None else list(embed_workers.values()),
        "recent": sorted(recent, key=lambda item: str(item["indexed_time"]), reverse=True)[:_RECENT],
        "services": {"redis": redis_state},
    }


def _wrong(partition: int, owners: list[Worker]) -> str | None:
    if not owners:
        return f"shard {partition} missing"
    state = owners[0].state(partition)
    why = _why(owners[0], partition)
    return None if state == "ready" else f"shard {partition} {state}" + (f" ({why})" if why else "")


def _why(owner: Worker, partition: int) -> str | None:
    """Why a shard is paused, loading or catching up, as far as its worker tells."""
    shard = owner.shards[partition]
    if owner.missed:
        return None
    if shard.get("paused"):
        return f"paused: {shard['paused']}"
    if shard["state"] == "ready" or not shard.get("rebuilding"):
        return None
    progress = shard.get("rebuild_progress")
    done = "" if progress is None else f", {progress:.0%} done"
    return f"building the graph{done}"


def _row(partition: int, owner: Worker) -> dict[str, Any]:
    shard = owner.shards[partition]
    as_of_ms = shard["as_of_ms"]
    return {
        "shard": partition,
        "replica": owner.replica,
        "worker": owner.url,
        "state": owner.state(partition),
        "paused": shard.get("paused"),
        "reason": _why(owner, partition),
        "documents": shard["documents"],
        "chunks": shard["chunks"],
        "applied_offset": shard["applied_offset"],
        "as_of": None if as_of_ms is None else utc(as_of_ms),
        "staleness_ms": None if as_of_ms is None else max(0, now_ms() - as_of_ms),
    }


def _missing(partition: int) -> dict[str, Any]:
    unknown = dict.fromkeys(_UNKNOWN)
    return {"shard": partition, "state": "missing", "documents": 0, "chunks": 0} | unknown
