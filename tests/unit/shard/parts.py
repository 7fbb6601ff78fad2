"""Records of the vectors topic as events, small shards, and vectors that are easy to tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.event import Event
from app.settings import Settings
from app.shard.shard import Shard
from schemas.headers import WATERMARK_KEY, RecordHeaders
from schemas.vector_record import VectorRecord, encode_vector_record

DIM = 8
EPOCH = "epoch"
NOW_MS = 1_700_000_000_000


def shard_settings(folder: Path, **changed: Any) -> Settings:
    """A graph so well linked and searched so wide that on small data it finds everything."""
    given = {"data_dir": folder, "hnsw_m": 64, "hnsw_ef_construction": 512, "hnsw_ef_search": 512}
    return Settings(_env_file=None, **(given | changed))


def open_shard(folder: Path, epoch: str = EPOCH, **changed: Any) -> Shard:
    """Open and loaded."""
    shard = Shard(0, folder / "shard-0.sqlite", epoch, shard_settings(folder, **changed))
    shard.load()
    return shard


def unit(*numbers: float) -> NDArray[np.float32]:
    """A vector of length 1 that begins with the numbers."""
    vector = np.zeros(DIM, np.float32)
    vector[: len(numbers)] = numbers
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def random_units(count: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def headers(kind: Any, source_offset: int, **changed: Any) -> RecordHeaders:
    given = {
        "source_partition": 0,
        "through": source_offset,
        "as_of_ms": NOW_MS + source_offset,
        "epoch": EPOCH,
        "event_time_ms": NOW_MS,
    }
    return RecordHeaders(kind=kind, source_offset=source_offset, **(given | changed))


def document(
    offset: int,
    document_id: str,
    vectors: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    *,
    source_offset: int | None = None,
    text: str | None = None,
    metadata: dict[str, Any] | None = None,
    fingerprint: str = "m",
    **changed: Any,
) -> Event:
    """A document whose n-th chunk is the n-th letter of its text."""
    matrix = np.asarray(vectors, np.float32).reshape(-1, DIM)
    record = VectorRecord(
        id=document_id,
        text=text if text is not None else "abcdefgh"[: len(matrix)],
        title=f"title of {document_id}",
        metadata=metadata or {},
        content_hash=bytes(16),
        fingerprint=fingerprint,
        spans=tuple((n, n + 1) for n in range(len(matrix))),
        vectors=matrix.astype(np.float16),
    )
    told = headers("document", offset if source_offset is None else source_offset, **changed)
    return record_event(offset, document_id.encode(), encode_vector_record(record), told)


def delete(offset: int, document_id: str, *, source_offset: int | None = None, **changed: Any) -> Event:
    told = headers("delete", offset if source_offset is None else source_offset, **changed)
    return record_event(offset, document_id.encode(), None, told)


def watermark(offset: int, through: int, **changed: Any) -> Event:
    return record_event(offset, WATERMARK_KEY, b"", headers("watermark", through, **changed))


def record_event(offset: int, key: bytes | None, value: bytes | None, told: RecordHeaders) -> Event:
    return Event(0, offset, key, value, tuple(told.encode()), told.as_of_ms, NOW_MS * 1_000_000)


def found(shard: Shard, query: NDArray[np.float32], k: int = 10) -> list[str]:
    return [hit.document.id for hit in shard.search(query, k, None, None)]


def drain(shard: Shard) -> None:
    """Let the graph absorb all it would."""
    while shard.absorb():
        pass


def cosine_order(scores: Iterable[float]) -> list[float]:
    return sorted(scores, reverse=True)
