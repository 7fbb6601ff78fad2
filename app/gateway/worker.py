"""An index worker as a gateway knows it: what it tells of itself, checked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.document_change import explain

_SILENT_AFTER_POLLS = 2  # one alone may be a machine that was busy for a second


class _Shard(BaseModel):
    model_config = ConfigDict(strict=True)

    partition: int
    state: str
    documents: int
    chunks: int
    applied_offset: int | None
    as_of_ms: int | None
    words_as_of_ms: int | None = None
    next_offset: int | None = None


class _Change(BaseModel):
    indexed_time: str


class _Description(BaseModel):
    """The least that a worker tells; what is not here it may leave out. collection: null, it is of an older version."""

    model_config = ConfigDict(strict=True)

    collection: str | None = None
    replica: str
    partitions: int = Field(ge=1)
    shards: list[_Shard]
    recent: list[_Change]
    freshness: dict[str, Any] | None = None
    checks: dict[str, Any] | None = None


@dataclass(slots=True)
class Worker:
    """An index worker as it last described itself. missed: polls since it last answered. asked: the present poll."""

    url: str
    replica: str = ""
    partitions: int = 0
    shards: dict[int, dict[str, Any]] = field(default_factory=dict)
    recent: list[dict[str, Any]] = field(default_factory=list)
    freshness: dict[str, Any] | None = None
    checks: dict[str, Any] = field(default_factory=dict)
    missed: int = 0
    asked: asyncio.Task[None] | None = None

    def take(self, answer: Any, collection: str) -> None:
        """Keep its description of itself. Raises ValueError, and keeps the last one, if it is none.

        collection: the gateway's; of a worker of another one, which has come to this URL, nothing is kept to ask for.
        """
        try:
            told = _Description.model_validate(answer)
        except ValidationError as error:
            raise ValueError(explain(error)) from error
        if told.collection not in (None, collection):
            self.shards = {}
            raise ValueError(f"it is of the collection {told.collection!r}")
        self.replica, self.partitions, self.recent = told.replica, told.partitions, answer["recent"]
        self.freshness, self.checks = told.freshness, told.checks or {}
        self.shards = {shard["partition"]: shard for shard in answer["shards"]}

    @property
    def answers(self) -> bool:
        """Whether it did so the last time that it was asked."""
        return self.partitions > 0 and not self.missed

    @property
    def silent(self) -> bool:
        """Whether it is left alone until a poll answers."""
        return self.missed >= _SILENT_AFTER_POLLS

    def state(self, partition: int) -> str:
        """Of a shard that it has: as it said, or unreachable since it is silent."""
        return "unreachable" if self.missed else str(self.shards[partition].get("state"))
