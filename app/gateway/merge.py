"""One ranking from the hits of all shards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.search import Mode

# The constant of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): chosen there in a pilot, and the
# results hardly change around it. Ranks, not scores, because a cosine and a BM25 score have no scale in common.
RRF_K = 60

_LISTS: dict[Mode, tuple[str, ...]] = {
    "vector": ("vector",),
    "keyword": ("keyword",),
    "hybrid": ("vector", "keyword"),
}
_Placed = tuple[int, dict[str, Any]]


def merge(hits: Iterable[dict[str, Any]], mode: Mode, k: int) -> list[dict[str, Any]]:
    """The k best documents, each once, best first; ties by id.

    hits: of all shards, in any order, with `vector_score` and `keyword_score`; null: that list does not have the hit.
    Those that no list of the mode has are dropped. A document that two shards have, because its producer changed the
    partitioner, has the better score of each list, and is shown as the copy that stood higher.
    Returns copies with `score` as the mode means it, and with `<list>_score` and `<list>_rank` (from 1) of each list,
    null where the document was not in it or the mode does not use it.
    """
    hits = list(hits)
    lists = {name: ranked(hits, f"{name}_score") for name in _LISTS[mode]}
    places: dict[str, dict[str, _Placed]] = {}
    for name, placed in lists.items():
        for document_id, place in placed.items():
            places.setdefault(document_id, {})[name] = place
    scores = {document_id: _score(own, mode) for document_id, own in places.items()}
    best = sorted(scores, key=lambda document_id: (-scores[document_id], document_id))[:k]
    return [_shown(places[document_id]) | {"score": scores[document_id]} for document_id in best]


def ranked(hits: Iterable[dict[str, Any]], field: str) -> dict[str, _Placed]:
    """By id: the rank from 1 by this score, and the best copy; of equal copies the one that changed last."""
    listed = [hit for hit in hits if hit[field] is not None]
    listed.sort(key=lambda hit: (-hit[field], hit["id"], -hit["event_time_ms"], hit["shard"]))
    best: dict[str, dict[str, Any]] = {}
    for hit in listed:
        best.setdefault(hit["id"], hit)
    return {document_id: (rank, hit) for rank, (document_id, hit) in enumerate(best.items(), 1)}


def reciprocal_rank(ranks: Iterable[int]) -> float:
    """The fused score of a document with these ranks, each from 1."""
    return sum(1 / (RRF_K + rank) for rank in ranks)


def _score(places: dict[str, _Placed], mode: Mode) -> float:
    if mode == "hybrid":
        return reciprocal_rank(rank for rank, _ in places.values())
    score: float = places[mode][1][f"{mode}_score"]
    return score


def _shown(places: dict[str, _Placed]) -> dict[str, Any]:
    """The copy that stood higher, with the scores and ranks of the lists that have the document."""
    _, copy = min(places.values(), key=lambda place: place[0])
    shown = dict(copy)
    for name in _LISTS["hybrid"]:
        rank, hit = places.get(name, (None, {}))
        shown |= {f"{name}_rank": rank, f"{name}_score": hit.get(f"{name}_score")}
    return shown
