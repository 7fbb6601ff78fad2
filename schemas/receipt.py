"""GET /documents/{id}/receipt: what every replica holds under an id. Fields may be added; these keep their names."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

State = Literal["deleted", "indexed"]


class Source(BaseModel):
    """The change that made the newest state of the document."""

    partition: int
    offset: int


class ReplicaReceipt(BaseModel):
    """What one replica holds; of its workers, the one that proves least.

    `unknown`: nothing under that id, and it had applied `applied_offset` by then.
    """

    state: Literal["deleted", "indexed", "unknown"]
    has_it: bool = Field(description="whether it holds the newest state, or has none of a deleted document")
    source_offset: int | None
    applied_offset: int | None
    indexed_time: str | None = Field(description="when this replica made it visible, or invisible")
    as_of: str | None
    worker: str


class MissingReplica(BaseModel):
    """A worker of a replica that does not say what it holds. replica: null, one that has never answered."""

    replica: str | None
    worker: str
    reason: str


class Receipt(BaseModel):
    """The newest state of a document, and which replicas have it. Times are RFC 3339 in UTC."""

    id: str
    state: State
    version: int | None
    source: Source
    event_time: str
    replicas: dict[str, ReplicaReceipt]
    missing_replicas: list[MissingReplica]
    everywhere_at: str | None = Field(description="when the last known replica had it; null while one lacks it")
    took_ms: int | None = Field(description="from `event_time` to `everywhere_at`")
    trace_id: str | None
