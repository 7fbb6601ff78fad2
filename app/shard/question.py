"""What a gateway asks an index worker: bodies and parameters of the internal API, checked before anything is done."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from schemas.document_change import MAX_ID_BYTES, explain
from schemas.errors import BadRequest
from schemas.filters import Filter, parse_filter
from schemas.search import MAX_K, MAX_PARTITIONS, MAX_QUERY_CHARS, Int64, Mode, Partition
from schemas.vector_record import MAX_DIM

_ITEM_BYTES = np.dtype(np.float32).itemsize
_MAX_VECTOR_CHARS = (MAX_DIM * _ITEM_BYTES + 2) // 3 * 4


class _Body(BaseModel):
    """The gateway's JSON. Unknown fields are those of a newer one; a gateway of an older version knows no modes."""

    model_config = ConfigDict(strict=True)

    shards: Annotated[list[Annotated[int, Field(ge=0, lt=MAX_PARTITIONS)]], Field(max_length=MAX_PARTITIONS)]
    mode: Mode | Literal["none"] = "vector"  # none: it only waits
    query: Annotated[str, StringConstraints(max_length=MAX_QUERY_CHARS)] | None = None
    vector: Annotated[str, StringConstraints(max_length=_MAX_VECTOR_CHARS)] | None
    fingerprint: str | None
    k: Annotated[int, Field(ge=0, le=MAX_K)]
    filter: dict[str, Any] | None
    min_offsets: Annotated[dict[Partition, Int64], Field(max_length=MAX_PARTITIONS)]
    max_staleness_ms: Int64 | None
    timeout_ms: Annotated[int, Field(ge=1, le=60_000)]
    probe: bool = False


@dataclass(frozen=True, slots=True)
class ShardQuery:
    """One question to some shards of this worker. waits_only: nothing is searched for, by meaning or by words."""

    shards: list[int]
    vector: NDArray[np.float32] | None
    text: str | None
    fingerprint: str | None
    k: int
    parsed: Filter | None
    min_offsets: dict[int, int]
    max_staleness_ms: int | None
    deadline: float
    probe: bool = False
    waits_only: bool = False

    @property
    def by_words(self) -> bool:
        """Whether the keyword index, which is a moment behind, must have come so far as well."""
        return self.waits_only or self.text is not None

    @classmethod
    def decode(cls, content: bytes) -> ShardQuery:
        """From the gateway's JSON; the vector is base64 of float32, null for keywords alone. Raises BadRequest."""
        try:
            body = _Body.model_validate_json(content)
        except ValidationError as error:
            raise BadRequest(explain(error)) from error
        if body.mode in ("keyword", "hybrid") and body.query is None:
            raise BadRequest(f"query: mode {body.mode} needs one")
        if body.mode != "none" and body.k == 0:
            raise BadRequest("k: must be at least 1")
        return cls(
            shards=list(dict.fromkeys(body.shards)),
            vector=_vector(body.vector) if body.mode in ("vector", "hybrid") else None,
            text=body.query if body.mode in ("keyword", "hybrid") else None,
            fingerprint=body.fingerprint,
            k=body.k,
            parsed=parse_filter(body.filter) if body.filter else None,
            min_offsets={int(shard): offset for shard, offset in body.min_offsets.items()},
            max_staleness_ms=body.max_staleness_ms,
            deadline=time.monotonic() + body.timeout_ms / 1000,
            probe=body.probe,
            waits_only=body.mode == "none",
        )


def asked_id(parameters: Mapping[str, str]) -> str:
    """The parameter `id`. Raises BadRequest if it is missing or can be no document's."""
    document_id = parameters.get("id", "")
    return checked_id(document_id)


def checked_id(document_id: str) -> str:
    """The id itself. Raises BadRequest where no document can have it: SQLite would not take it either."""
    try:
        size = len(document_id.encode())
    except UnicodeEncodeError:
        raise BadRequest("id: is not valid UTF-8") from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise BadRequest(f"id: has {size} bytes; ids of documents have 1 to {MAX_ID_BYTES}")
    return document_id


def asked_ids(body: bytes, most: int) -> list[str]:
    """`ids` of a JSON body, at most so many. Raises BadRequest."""
    try:
        ids = orjson.loads(body)["ids"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(f"not JSON with ids: {error}") from error
    if not isinstance(ids, list) or len(ids) > most or not all(isinstance(item, str) for item in ids):
        raise BadRequest(f"ids: expected at most {most} strings")
    return [checked_id(item) for item in ids]


def asked_page(parameters: Mapping[str, str], most: int) -> tuple[str | None, int]:
    """`after` (an id, or None) and `limit` (at most `most`, which is the default). Raises BadRequest."""
    after, limit = parameters.get("after"), parameters.get("limit", str(most))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= len(str(most))):
        raise BadRequest(f"limit: expected 0 to {most}")
    return None if after is None else checked_id(after), min(int(limit), most)


def asked_shard(parameters: Mapping[str, str]) -> int:
    """The parameter `shard`. Raises BadRequest if it is missing or no number of a shard."""
    number = parameters.get("shard", "")
    if not (number.isascii() and number.isdigit() and len(number) <= len(str(MAX_PARTITIONS))):
        raise BadRequest("shard: expected the number of a shard")
    return int(number)


def _vector(encoded: str | None) -> NDArray[np.float32]:
    try:
        content = base64.b64decode(encoded or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"vector: not base64 ({error})") from error
    if not content or len(content) % _ITEM_BYTES:
        raise BadRequest(f"vector: {len(content)} bytes are no row of float32")
    vector = np.frombuffer(content, np.float32)
    if not np.isfinite(vector).all():
        raise BadRequest("vector: not every number is finite")
    return vector
