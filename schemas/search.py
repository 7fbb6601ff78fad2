"""Search request and response: the public HTTP contract. Fields may be added; these keep their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from schemas.document_change import explain
from schemas.errors import BadRequest
from schemas.vector_record import MAX_DIM

MAX_K = 1000
MAX_QUERY_CHARS = 10_000
MAX_PARTITIONS = 10_000  # as many as a collection can have
Mode = Literal["vector", "keyword", "hybrid"]
Partition = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Int64 = Annotated[int, Field(ge=0, lt=2**63)]
TimeoutMs = Annotated[int, Field(ge=1, le=60_000)]


class SearchRequest(BaseModel):
    """One search: by text, by vector, or by both.

    `mode` is by default `hybrid` where there is a `query` and `vector` where there is none. With both, `vector` stands
    for the meaning and `query` for the words.
    `min_offsets` {partition: source offset} waits until those changes are applied (read your own write);
    `max_staleness_ms` waits for an answer at most that old; both fail with 504 after `timeout_ms`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    query: Annotated[str, StringConstraints(max_length=MAX_QUERY_CHARS)] | None = None
    vector: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=MAX_DIM)] | None = None
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    mode: Mode | None = Field(None, description="default: `hybrid` with a `query`, `vector` without")
    filter: dict[str, Any] | None = None
    min_offsets: Annotated[dict[Partition, Int64], Field(max_length=MAX_PARTITIONS)] | None = None
    max_staleness_ms: Int64 | None = None
    timeout_ms: TimeoutMs = 2000

    @property
    def resolved_mode(self) -> Mode:
        """The mode asked for, or the default for this kind of question."""
        return self.mode or ("vector" if self.query is None else "hybrid")

    @model_validator(mode="after")
    def _answerable(self) -> SearchRequest:
        if self.query is None and self.vector is None:
            raise ValueError("give 'query' (text), 'vector', or both")
        if self.query is not None and not self.query.strip():
            raise ValueError("'query' is empty")
        if self.query is None and self.resolved_mode != "vector":
            raise ValueError(f"mode '{self.mode}' looks for words: give 'query' (text) as well, or use mode 'vector'")
        return self


class Highlight(BaseModel):
    """A span of a hit's text, [start, end) in code points, that a word of the query matches."""

    start: int
    end: int


class ChunkHit(BaseModel):
    """A chunk of a hit's document that was found."""

    text: str
    start: int = Field(description="where it starts in the document's text, in code points")
    end: int = Field(description="where it ends, exclusive")
    score: float = Field(description="in the search that found it: cosine similarity or BM25")
    highlights: list[Highlight]


class Hit(BaseModel):
    """One document with its best chunks. Times are RFC 3339 in UTC.

    A score and a rank are null where the mode does not use them, and in hybrid mode where that search did not find
    the document.
    """

    id: str
    score: float = Field(
        description="what the hits are sorted by: `vector_score` in mode vector, `keyword_score` in mode keyword; in"
        " mode hybrid the sum of 1 / (60 + rank) over the two ranks"
    )
    vector_score: float | None = Field(description="cosine similarity of query and best chunk, -1 to 1")
    keyword_score: float | None = Field(description="BM25 of query and best chunk, above 0, without an upper bound")
    vector_rank: int | None = Field(description="place among the hits of all shards by `vector_score`, from 1")
    keyword_rank: int | None = Field(description="place among the hits of all shards by `keyword_score`, from 1")
    title: str | None
    text: str = Field(description="the best chunk")
    highlights: list[Highlight] = Field(description="in `text`")
    chunks: list[ChunkHit] = Field(description="up to 3 chunks that were found, best first; the first is `text`")
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

    mode: Mode = Field(description="the mode that was used")
    hits: list[Hit]
    partial: bool
    missing_shards: dict[str, str]
    took_ms: float
    freshness: Freshness


class WaitParameters(BaseModel):
    """What a search may also be given in its query string, for clients that send one body everywhere."""

    model_config = ConfigDict(extra="forbid")

    max_staleness_ms: Int64 | None = None
    timeout_ms: TimeoutMs | None = None


def parse_search_request(body: bytes, parameters: Sequence[tuple[str, str]] = ()) -> SearchRequest:
    """The body with what the query string adds to it.

    Raises BadRequest whose message names the field and what is accepted; also where something is given twice.
    """
    names = [name for name, _ in parameters]
    try:
        asked = SearchRequest.model_validate_json(body)
        added = WaitParameters.model_validate(dict(parameters)).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise BadRequest(explain(error)) from error
    twice = [name for name in names if name in asked.model_fields_set or names.count(name) > 1]
    if twice:
        raise BadRequest(f"{twice[0]}: is given twice; give it in the body or once in the query string")
    return asked.model_copy(update=added) if added else asked
