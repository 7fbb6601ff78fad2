"""From what the shards said to the answer a client gets."""

from __future__ import annotations

import time
from typing import Any

from app.gateway.fanout import Gathered
from app.gateway.merge import merge
from app.shard.words import highlights
from schemas.document_change import utc
from schemas.search import SearchRequest


def search_answer(gathered: Gathered, asked: SearchRequest, stemmer: str, started: float) -> dict[str, Any]:
    """The body of the response: hits of all shards merged as the mode says, and how fresh each shard is.

    stemmer: of the keyword index. started: time.perf_counter() when the request came in.
    """
    mode = asked.resolved_mode
    hits = merge((hit for said in gathered.shards.values() for hit in said["hits"]), mode, asked.k)
    return {
        "mode": mode,
        "hits": [_hit(hit, asked.query, stemmer) for hit in hits],
        "partial": bool(gathered.missing),
        "missing_shards": {str(shard): why for shard, why in sorted(gathered.missing.items())},
        "took_ms": round((time.perf_counter() - started) * 1000, 3),
        "freshness": freshness(gathered.shards),
    }


def wait_answer(copies: dict[int, dict[str, dict[str, Any]]], started: float) -> dict[str, Any]:
    """The body of a wait that was long enough. copies: partition → replica → what it said."""
    now = now_ms()
    least = {shard: min(said.values(), key=lambda one: one["applied_offset"]) for shard, said in copies.items()}
    return {
        "took_ms": round((time.perf_counter() - started) * 1000, 3),
        "freshness": freshness(least),
        "replicas": {
            str(shard): {
                replica: shard_freshness(one, now) | {"worker": one["worker"]} for replica, one in said.items()
            }
            for shard, said in copies.items()
        },
    }


def document_answer(found: dict[str, Any]) -> dict[str, Any]:
    """The body for one document."""
    document = found["document"]
    return _times(document) | {"freshness": shard_freshness(found, now_ms())}


def freshness(shards: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Per shard, and of the whole: the oldest of its shards; null while one of them has nothing to say."""
    now = now_ms()
    times = [said["as_of_ms"] for said in shards.values()]
    oldest = None if not times or None in times else min(times)
    return {
        "as_of": None if oldest is None else utc(oldest),
        "staleness_ms": None if oldest is None else max(0, now - oldest),
        "shards": {str(shard): shard_freshness(said, now) for shard, said in sorted(shards.items())},
    }


def shard_freshness(said: dict[str, Any], now: int) -> dict[str, Any]:
    """Of one shard. now: ms since the epoch."""
    as_of_ms = said["as_of_ms"]
    return {
        "applied_offset": said["applied_offset"],
        "as_of": None if as_of_ms is None else utc(as_of_ms),
        "staleness_ms": None if as_of_ms is None else max(0, now - as_of_ms),
    }


def now_ms() -> int:
    """Wall clock."""
    return time.time_ns() // 1_000_000


def _hit(hit: dict[str, Any], query: str | None, stemmer: str) -> dict[str, Any]:
    texts = {hit["text"], *(chunk["text"] for chunk in hit["chunks"])}
    marks = {text: _marks(query, text, stemmer) for text in texts}
    chunks = [chunk | {"highlights": marks[chunk["text"]]} for chunk in hit["chunks"]]
    return _times(hit) | {"highlights": marks[hit["text"]], "chunks": chunks}


def _marks(query: str | None, text: str, stemmer: str) -> list[dict[str, int]]:
    """What a reader should see marked; nothing where the question is a vector alone."""
    if query is None:
        return []
    return [{"start": start, "end": end} for start, end in highlights(query, text, stemmer)]


def _times(document: dict[str, Any]) -> dict[str, Any]:
    fields = dict(document)
    times = {"event_time": utc(fields.pop("event_time_ms")), "indexed_time": utc(fields.pop("indexed_time_ms"))}
    return fields | times
