"""From what the shards said to the answer a client gets."""

from __future__ import annotations

import re
import time
from typing import Any

from app.gateway.fanout import Gathered
from schemas.document_change import utc

_WORD = re.compile(r"\w+")
_PREFIX_CHARS = 4  # from this length on a word of the query also marks longer forms: "shard" marks "shards"
_MAX_HIGHLIGHTS = 200
# words too common to show why a text was found
_COMMON = frozenset(
    """a an and are as at be but by do does for from has have how i if in into is it its not of on or that the their
    then there these they this to was what when where which who why will with you your""".split()  # noqa: SIM905
)


def search_answer(gathered: Gathered, k: int, query: str | None, started: float) -> dict[str, Any]:
    """The body of the response: hits of all shards merged by score, and how fresh each shard is.

    started: time.perf_counter() when the request came in.
    """
    hits = [hit for said in gathered.shards.values() for hit in said["hits"]]
    hits.sort(key=lambda hit: (-hit["score"], hit["id"]))
    best: dict[str, dict[str, Any]] = {}
    for hit in hits:  # a document whose producer changed its partition may be in two shards
        best.setdefault(hit["id"], hit)
    words = query_words(query or "")
    return {
        "hits": [_hit(hit, words) for hit in list(best.values())[:k]],
        "partial": bool(gathered.missing),
        "missing_shards": {str(shard): why for shard, why in sorted(gathered.missing.items())},
        "took_ms": round((time.perf_counter() - started) * 1000, 3),
        "freshness": freshness(gathered.shards),
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


def query_words(query: str) -> set[str]:
    """The words of a query that are worth marking in a text."""
    return {word for word in _WORD.findall(query.casefold()) if word not in _COMMON}


def highlights(text: str, words: set[str]) -> list[dict[str, int]]:
    """Spans [start, end) in code points of the words of `text` that the query names."""
    if not words:
        return []
    stems = tuple(word for word in words if len(word) >= _PREFIX_CHARS)
    spans = []
    for match in _WORD.finditer(text):
        word = match.group().casefold()
        if word in words or word.startswith(stems):
            spans.append({"start": match.start(), "end": match.end()})
            if len(spans) == _MAX_HIGHLIGHTS:
                break
    return spans


def now_ms() -> int:
    """Wall clock."""
    return time.time_ns() // 1_000_000


def _hit(hit: dict[str, Any], words: set[str]) -> dict[str, Any]:
    return _times(hit) | {"highlights": highlights(hit["text"], words)}


def _times(document: dict[str, Any]) -> dict[str, Any]:
    fields = dict(document)
    times = {"event_time": utc(fields.pop("event_time_ms")), "indexed_time": utc(fields.pop("indexed_time_ms"))}
    return fields | times
