"""Search request and response: the public HTTP contract. Fields may be added; these keep their names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from schemas.document_change import explain
from schemas.errors import BadRequest

MAX_K = 1000
MAX_QUERY_CHARS = 10_000
_Int64 = Annotated[int, Field(ge=0, lt=2**63)]


class SearchRequest(BaseModel):
    """One search: by text or by vector.

    `min_offsets` {partition: source offset} waits until those changes are applied (read your own write);
    `max_staleness_ms` waits for an answer at most that old; both fail with 504 after `timeout_ms`.
    """

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, StringConstraints(max_length=MAX_QUERY_CHARS)] | None = None
    vector: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None
    k: Annotated[int, Field(strict=True, ge=1, le=MAX_K)] = 10
    mode: Literal["vector"] = "vector"
    filter: dict[str, Any] | None = None
    min_offsets: dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], _Int64] | None = None
    max_staleness_ms: _Int64 | None = None
    timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 2000

    @model_validator(mode="after")
    def _one_question(self) -> SearchRequest:
        if (self.query is None) == (self.vector is None):
            raise ValueError("give either 'query' (text) or 'vector'")
        if self.query is not None and not self.query.strip():
            raise ValueError("'query' is empty")
        return self


class Highlight(BaseModel):
    """A span of a hit's text, [start, end) in code points, that a word of the query matches."""

    start: int
    end: int


class Hit(BaseModel):
    """One document with its best chunk. Times are RFC 3339 in UTC."""

    id: str
    score: float = Field(description="cosine similarity of query and best chunk, -1 to 1")
    title: str | None
    text: str = Field(description="the best chunk")
    highlights: list[Highlight]
    metadata: dict[str, Any]
    version: int | None
    shard: int
    source_offset: int
    event_time: str = Field(description="when the change happened at the source")
    indexed_time: str = Field(description="when this version became searchable")
    trace_id: str | None


class ShardFreshness(BaseModel):
    """Everything up to `applied_offset` is reflected, as of `as_of`. null: nothing was applied yet."""

    applied_offset: int | None
    as_of: str | None
    staleness_ms: int | None


class Freshness(BaseModel):
    """Of the whole answer: the oldest `as_of` of its shards."""

    as_of: str | None
    staleness_ms: int | None
    shards: dict[str, ShardFreshness]


class SearchResponse(BaseModel):
    """The answer. `partial` is true when a shard is missing from it; `missing_shards` names them and why."""

    hits: list[Hit]
    partial: bool
    missing_shards: dict[str, str]
    took_ms: float
    freshness: Freshness


def parse_search_request(body: bytes) -> SearchRequest:
    """Raises BadRequest whose message names the field and what is accepted."""
    try:
        return SearchRequest.model_validate_json(body)
    except ValidationError as error:
        raise BadRequest(explain(error)) from error
