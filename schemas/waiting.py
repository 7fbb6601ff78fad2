"""POST /wait: until changes are applied, without searching. Fields may be added; these keep their names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.document_change import explain
from schemas.errors import BadRequest
from schemas.search import MAX_PARTITIONS, Freshness, Int64, Partition, ShardFreshness, TimeoutMs

Replicas = Literal["any", "all"]


class WaitRequest(BaseModel):
    """Wait until the shards of these partitions have applied these source offsets; 504 after `timeout_ms`.

    `replicas`: `any`, the replica that a search through this gateway would ask; `all`, every replica it knows.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    min_offsets: Annotated[dict[Partition, Int64], Field(min_length=1, max_length=MAX_PARTITIONS)]
    timeout_ms: TimeoutMs = 2000
    replicas: Replicas = "any"

    @property
    def offsets(self) -> dict[int, int]:
        """By number of the partition; the highest where one is named twice, as 0 and 00."""
        highest: dict[int, int] = {}
        for partition, offset in self.min_offsets.items():
            highest[int(partition)] = max(offset, highest.get(int(partition), 0))
        return highest


class ReplicaFreshness(ShardFreshness):
    """How far one replica of a shard is."""

    worker: str = Field(description="the index worker that said so")


class WaitResponse(BaseModel):
    """`freshness` is that of the shards that were waited for; of several replicas, of the one that is least far."""

    took_ms: float
    freshness: Freshness
    replicas: dict[str, dict[str, ReplicaFreshness]] = Field(description="by partition and replica: who has it")


def parse_wait_request(body: bytes) -> WaitRequest:
    """Raises BadRequest whose message names the field and what is accepted."""
    try:
        return WaitRequest.model_validate_json(body)
    except ValidationError as error:
        raise BadRequest(explain(error)) from error
