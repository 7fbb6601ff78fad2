"""A shard as people and the gateway see it."""

from __future__ import annotations

from dataclasses import dataclass

from app.shard.index import HnswIndex
from app.shard.keyword_feed import KeywordFeed
from app.shard.store import Progress
from app.shard.upkeep import UpkeepStatus


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """Times in ms since the epoch; None where nothing was applied, measured or written yet.

    state: loading (no answers yet), catching up, ready. buffered: chunks scanned exactly. graph_dead_ratio: share of
    its points that are deleted. words_as_of_ms: of the keyword index, which follows the rows: usually tens of
    milliseconds behind, seconds after many records at once. memory_bytes: an estimate, by part.
    """

    partition: int
    state: str
    documents: int
    chunks: int
    buffered: int
    graph_dead_ratio: float
    applied_offset: int | None
    as_of_ms: int | None
    words_as_of_ms: int | None
    next_offset: int | None
    fingerprint: str | None
    ef_search: int | None
    recall_at_10: float | None
    recall_samples: int
    memory_bytes: dict[str, int]
    disk_bytes: int
    snapshot_chunks: int | None
    snapshot_ms: int | None
    rebuilding: bool
    rebuild_progress: float
    rebuild_reason: str | None
    rebuild_seconds: float | None


def shard_status(
    partition: int,
    state: str,
    progress: Progress,
    index: HnswIndex | None,
    keywords: KeywordFeed,
    upkeep: UpkeepStatus,
    disk_bytes: int,
) -> ShardStatus:
    """Put together what the parts say of themselves."""
    generation = index.generation if index is not None else None
    return ShardStatus(
        partition=partition,
        state=state,
        documents=progress.documents,
        chunks=generation.chunks if generation else 0,
        buffered=len(generation.buffer) if generation else 0,
        graph_dead_ratio=index.dead_ratio if index else 0.0,
        applied_offset=progress.through if progress.through >= 0 else None,
        as_of_ms=progress.as_of_ms,
        words_as_of_ms=keywords.view.progress.as_of_ms,
        next_offset=progress.next_offset,
        fingerprint=progress.fingerprint,
        ef_search=generation.graph.ef_search if generation else None,
        recall_at_10=upkeep.recall_at_10,
        recall_samples=upkeep.recall_samples,
        memory_bytes=_memory(index, keywords),
        disk_bytes=disk_bytes,
        snapshot_chunks=upkeep.snapshot_chunks,
        snapshot_ms=upkeep.snapshot_ms,
        rebuilding=upkeep.rebuilding,
        rebuild_progress=round(upkeep.rebuild_progress, 4),
        rebuild_reason=upkeep.rebuild_reason,
        rebuild_seconds=upkeep.rebuild_seconds,
    )


def _memory(index: HnswIndex | None, keywords: KeywordFeed) -> dict[str, int]:
    parts = {"graph": 0, "rows": 0, "buffer": 0, "keyword": keywords.index.memory_bytes}
    if index is not None:
        generation = index.generation
        parts["graph"] = generation.graph.memory_bytes
        parts["rows"] = generation.rows.memory_bytes(generation.end) + generation.rows.columns.memory_bytes
        parts["buffer"] = generation.buffer.nbytes
    return parts
