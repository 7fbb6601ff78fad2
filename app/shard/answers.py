"""What a shard found, as JSON for the gateway; times in ms since the epoch."""

from __future__ import annotations

from typing import Any

from app.shard.hits import ShardHit
from app.shard.shard import Shard
from app.shard.store import StoredDocument


def document_json(document: StoredDocument, partition: int) -> dict[str, Any]:
    """A stored document."""
    return {
        "id": document.id,
        "shard": partition,
        "version": document.version,
        "source_offset": document.source_offset,
        "title": document.title,
        "text": document.text,
        "metadata": document.metadata,
        "event_time_ms": document.event_time_ms,
        "indexed_time_ms": document.indexed_time_ms,
        "trace_id": document.trace_id,
    }


def hit_json(hit: ShardHit, partition: int) -> dict[str, Any]:
    """A document that a search found."""
    chunks = [
        {"text": hit.text_of(chunk), "start": chunk.start, "end": chunk.end, "score": chunk.score}
        for chunk in hit.chunks
    ]
    return document_json(hit.document, partition) | {
        "text": chunks[0]["text"],
        "score": hit.score,
        "vector_score": hit.vector_score,
        "keyword_score": hit.keyword_score,
        "chunks": chunks,
    }


def row_json(shard: Shard, document_id: str) -> dict[str, Any]:
    """What a shard holds under the id, deleted or not, and how far it had come before that was read."""
    progress = shard.progress()
    row = shard.document(document_id)
    return {
        "row": None
        if row is None
        else {
            "deleted": row.deleted,
            "version": row.version,
            "source_offset": row.source_offset,
            "event_time_ms": row.event_time_ms,
            "indexed_time_ms": row.indexed_time_ms,
            "trace_id": row.trace_id,
        },
        "applied_offset": progress.through if progress.through >= 0 else None,
        "as_of_ms": progress.as_of_ms,
    }
