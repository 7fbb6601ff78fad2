"""GET /stats: what an operator asks of every shard. null is what its worker does not tell or has not measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field

from app.gateway.answer import now_ms
from app.gateway.directory import Directory
from app.gateway.worker import Worker
from app.settings import Settings

_MEMORY = ("graph", "rows", "buffer", "keyword")


class Memory(BaseModel):
    """Bytes in the memory of the index worker. total: null while a part is not known."""

    graph: int | None = Field(description="the HNSW structure with its vectors")
    rows: int | None = Field(description="what is kept of every chunk and document beside the indexes")
    buffer: int | None = Field(description="vectors that the graph has not absorbed")
    keyword: int | None = Field(description="the keyword index")
    total: int | None


class Snapshot(BaseModel):
    """The newest snapshot of the graph on disk: what a restart begins with."""

    age_s: float
    chunks: int | None


class Rebuild(BaseModel):
    """Building the graph anew in the background; searches go on with the old one."""

    running: bool | None
    progress: float | None = Field(description="0 to 1; of the last one while none is running")
    last_reason: str | None = Field(description="why the one that runs, or the last one, was begun")
    last_seconds: float | None = Field(description="how long the last one took")


class ShardStats(BaseModel):
    """One shard of one replica. state: as in /status; all of an unreachable shard is as it was last told."""

    shard: int
    replica: str | None
    worker: str | None
    state: str
    paused: str | None = Field(description="why changes are not applied at present")
    documents: int | None
    chunks: int | None
    buffered_chunks: int | None = Field(description="searched exactly until the graph has absorbed them")
    graph_dead_ratio: float | None = Field(description="share of the graph that is deleted or replaced, 0 to 1")
    recall_at_10: float | None = Field(description="of the graph against exact search, 0 to 1; null until measured")
    recall_samples: int = Field(description="searches that `recall_at_10` was measured on")
    ef_search: int | None
    memory: Memory
    disk_bytes: int | None
    snapshot: Snapshot | None
    rebuild: Rebuild


class Totals(BaseModel):
    """Over the shards that are known; null: one does not tell. Counts: each shard once. Bytes: every replica."""

    documents: int | None
    chunks: int | None
    buffered_chunks: int | None
    memory: Memory
    disk_bytes: int | None


class Stats(BaseModel):
    """Every shard of every replica as its index worker described it at most a second ago."""

    collection: str
    totals: Totals
    shards: list[ShardStats]


def stats(settings: Settings, directory: Directory) -> Stats:
    """The body of GET /stats."""
    owners = {partition: directory.owners(partition) for partition in range(directory.partitions)}
    first = [_row(partition, own[0]) for partition, own in owners.items() if own]
    others = [_row(partition, owner) for partition, own in owners.items() for owner in own[1:]]
    missing = [_missing(partition) for partition, own in owners.items() if not own]
    rows = sorted(first + others + missing, key=lambda row: (row.shard, row.replica or ""))
    return Stats(collection=settings.collection, totals=_totals(first, first + others), shards=rows)


def _row(partition: int, owner: Worker) -> ShardStats:
    shard = owner.shards[partition]
    return ShardStats(
        shard=partition,
        replica=owner.replica,
        worker=owner.url,
        state=owner.state(partition),
        paused=shard.get("paused"),
        documents=shard.get("documents"),
        chunks=shard.get("chunks"),
        buffered_chunks=shard.get("buffered"),
        graph_dead_ratio=shard.get("graph_dead_ratio"),
        recall_at_10=shard.get("recall_at_10"),
        recall_samples=shard.get("recall_samples") or 0,
        ef_search=shard.get("ef_search"),
        memory=_memory(shard.get("memory_bytes") or {}),
        disk_bytes=shard.get("disk_bytes"),
        snapshot=_snapshot(shard),
        rebuild=Rebuild(
            running=shard.get("rebuilding"),
            progress=shard.get("rebuild_progress"),
            last_reason=shard.get("rebuild_reason"),
            last_seconds=shard.get("rebuild_seconds"),
        ),
    )


def _missing(partition: int) -> ShardStats:
    nobody = Worker(url="", shards={partition: {}})
    return _row(partition, nobody).model_copy(update={"replica": None, "worker": None, "state": "missing"})


def _memory(parts: dict[str, int | None]) -> Memory:
    known = {name: parts.get(name) for name in _MEMORY}
    return Memory(**known, total=_sum(known.values()))


def _snapshot(shard: dict[str, Any]) -> Snapshot | None:
    taken_ms = shard.get("snapshot_ms")
    if taken_ms is None:
        return None
    return Snapshot(age_s=max(0, now_ms() - taken_ms) / 1000, chunks=shard.get("snapshot_chunks"))


def _totals(shards: list[ShardStats], replicas: list[ShardStats]) -> Totals:
    """shards: each once. replicas: each as often as it takes up room."""
    return Totals(
        documents=_sum(row.documents for row in shards),
        chunks=_sum(row.chunks for row in shards),
        buffered_chunks=_sum(row.buffered_chunks for row in shards),
        memory=_memory({name: _sum(getattr(row.memory, name) for row in replicas) for name in _MEMORY}),
        disk_bytes=_sum(row.disk_bytes for row in replicas),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """None as soon as one is not known: a sum of the others would pass for the whole."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
