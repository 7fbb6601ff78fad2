"""What is wrong with one document: the log beside a shard, the changes beside the log, Redis beside both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from app.audit.fold import LastChange, Logged, stored_chunks
from app.shard.apply import SAME_COSINE
from app.shard.held_rows import ShardRow
from schemas.vector_record import VectorRecord

Kind = Literal["missing", "stale", "ghost", "mismatched", "ahead", "lost", "redis_ahead"]
KINDS: dict[Kind, str] = {
    "missing": "the topic has it, the shard does not",
    "stale": "the shard holds an older state than the topic",
    "ghost": "the shard has it, the topic says that it is deleted, or never had it",
    "mismatched": "the shard holds the same change with other content",
    "ahead": "the shard holds a newer state than the topic",
    "lost": "its last change should be in the vectors topic and is not",
    "redis_ahead": "Redis claims a later change than the topics have: changes would be skipped",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One document that is not as it should be. replica: of shards alone. topic, holds: what either side says."""

    kind: Kind
    partition: int
    replica: str | None
    id: str
    topic: str
    holds: str

    def fields(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def shard_drift(logged: Logged | None, row: ShardRow | None, dtype_at: int) -> Kind | None:
    """What is wrong with a row of a shard that has applied exactly the records which `logged` was folded of.

    dtype_at: which of the log's digests of vectors is of the shard's dtype. A soft-deleted row without a record is
    right: it stays when Kafka has forgotten the tombstone.
    """
    if row is None:
        return None if logged is None else "missing"
    if logged is None or logged.deleted:
        if not row.deleted:
            return "ghost"
        return "stale" if logged is not None and logged.order.supersedes(row.order) else None
    # offsets are unique: the same one is the same change, whatever version either side remembers from before it
    if row.source_offset != logged.source_offset:
        return "stale" if logged.order.supersedes(row.order) else "ahead"
    same = same_but_for_vectors(logged, row) and row.vectors == logged.vectors[dtype_at]
    return None if same else "mismatched"


def same_but_for_vectors(logged: Logged, row: ShardRow) -> bool:
    """Whether a row is what the log says, as far as people can read it."""
    return not row.deleted and (row.content_hash, row.digest) == (logged.content_hash, logged.digest)


def same_vectors(record: VectorRecord, dtype: str, stored: bytes) -> bool:
    """Whether a shard's vectors are those of a record but for what rounding does: runtimes of a model differ so.

    stored: all of the document, in the order of `sorted_chunks`.
    """
    said = np.frombuffer(b"".join(vector for *_, vector in stored_chunks(record, dtype)), dtype).astype(np.float32)
    held = np.frombuffer(stored, dtype).astype(np.float32)
    if said.size != held.size:
        return False
    dim = record.vectors.shape[1]
    return bool(((said.reshape(-1, dim) * held.reshape(-1, dim)).sum(axis=1) > SAME_COSINE).all())


def is_lost(change: LastChange, logged: Logged | None, through: int) -> bool:
    """Whether a change is not reflected although the log claims that everything up to `through` is.

    A change that changes nothing needs no record. Whether it has a dead letter is for the caller to find out.
    """
    if change.offset > through or (logged is not None and not change.order.supersedes(logged.order)):
        return False
    if change.deleted:
        return logged is not None and not logged.deleted
    return logged is None or logged.deleted or logged.content_hash != change.content_hash


def claims_too_much(claimed_offset: int, known_offset: int | None, end_offset: int) -> bool:
    """Whether Redis remembers a change that cannot have been.

    known_offset: the last one of the document in either topic, None where there is none: it may have been deleted
    and forgotten. end_offset: of the changes topic; what comes from there on would be skipped.
    """
    return claimed_offset >= end_offset or (known_offset is not None and claimed_offset > known_offset)


def told_log(logged: Logged | None) -> str:
    """A state of the log in words."""
    if logged is None:
        return "no record"
    return f"{'deleted' if logged.deleted else 'document'}, {_order(logged.source_offset, logged.version)}"


def told_row(row: ShardRow | None) -> str:
    """A row in words."""
    if row is None:
        return "nothing"
    what = "deleted" if row.deleted else f"document with {row.chunks} chunks"
    return f"{what}, {_order(row.source_offset, row.version)}"


def told_change(change: LastChange) -> str:
    """A change in words."""
    return f"{'delete' if change.deleted else 'upsert'}, {_order(change.offset, change.version)}"


def _order(source_offset: int, version: int | None) -> str:
    return f"change {source_offset}" + ("" if version is None else f", version {version}")
