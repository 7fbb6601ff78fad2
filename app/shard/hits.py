"""From ranked chunks to documents with their rows and texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.shard.columns import matches
from app.shard.generation import MOST_OTHERS, Ranked
from app.shard.store import ShardStore, StoredDocument
from schemas.filters import Filter

MOST_CHUNKS = 1 + MOST_OTHERS


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk of a document: its span [start, end) in code points, and its score in the list that found it."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class ShardHit:
    """A document as found. chunks: best first, the best by meaning if it was found by that.

    vector_score: -1 to 1; keyword_score: BM25 within this shard; None for a list that it is not in.
    """

    document: StoredDocument
    chunks: tuple[FoundChunk, ...]
    vector_score: float | None = None
    keyword_score: float | None = None

    @property
    def text(self) -> str:
        """The best chunk."""
        return self.text_of(self.chunks[0])

    def text_of(self, chunk: FoundChunk) -> str:
        """The text of a chunk of this document."""
        return (self.document.text or "")[chunk.start : chunk.end]

    @property
    def score(self) -> float:
        """By meaning if it was found by that, else by keywords."""
        return self.keyword_score or 0.0 if self.vector_score is None else self.vector_score


def by_meaning(store: ShardStore, ranked: Sequence[Ranked]) -> list[ShardHit] | None:
    """Hits of a vector search; None if one of them was replaced in between: then search again."""
    rows = store.chunks(_labels(ranked))
    hits = []
    for item in ranked:
        if item.label not in rows:
            return None
        hits.append(ShardHit(rows[item.label][0], _chunks(item, rows), vector_score=item.score))
    return hits


def by_words(store: ShardStore, ranked: Sequence[Ranked], parsed: Filter | None) -> list[ShardHit]:
    """Hits of a keyword search, which sees chunks as they were a moment ago: a document that was replaced since is
    shown as it is now, one that was deleted, or that no longer matches the filter, is left out."""
    rows = store.chunks(_labels(ranked))
    hits = []
    for item in ranked:
        if item.label in rows:
            hits.append(ShardHit(rows[item.label][0], _chunks(item, rows), keyword_score=item.score))
            continue
        now = store.first_chunk(item.doc)
        if now is not None and (parsed is None or matches(parsed, now[0].metadata)):
            document, start, end = now
            hits.append(ShardHit(document, (FoundChunk(start, end, item.score),), keyword_score=item.score))
    return hits


def merged(near: Sequence[ShardHit], words: Sequence[ShardHit]) -> list[ShardHit]:
    """One hit per document, those found by meaning first; which is best overall is for the caller to say."""
    hits = {hit.document.doc: hit for hit in near}
    for hit in words:
        own = hits.get(hit.document.doc)
        if own is None:
            hits[hit.document.doc] = hit
        elif own.document.source_offset == hit.document.source_offset:  # else it was replaced between the two looks
            chunks = _distinct((*own.chunks, *hit.chunks))
            hits[hit.document.doc] = replace(own, chunks=chunks, keyword_score=hit.keyword_score)
        else:
            hits[hit.document.doc] = replace(hit, vector_score=own.vector_score)
    return list(hits.values())


def _labels(ranked: Sequence[Ranked]) -> list[int]:
    return [label for item in ranked for label in (item.label, *(other for other, _ in item.others))]


def _chunks(item: Ranked, rows: dict[int, tuple[StoredDocument, int, int]]) -> tuple[FoundChunk, ...]:
    scored = ((item.label, item.score), *item.others)
    return tuple(FoundChunk(rows[label][1], rows[label][2], score) for label, score in scored if label in rows)


def _distinct(chunks: Iterable[FoundChunk]) -> tuple[FoundChunk, ...]:
    spans: dict[tuple[int, int], FoundChunk] = {}
    for chunk in chunks:
        spans.setdefault((chunk.start, chunk.end), chunk)
    return tuple(spans.values())[:MOST_CHUNKS]
