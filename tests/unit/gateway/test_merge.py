"""One ranking from the hits of all shards, against a naive reading of the same rules."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.merge import RRF_K, ranked
from app.gateway.merge import merge as merge_best
from schemas.search import Mode
from tests.unit.gateway.parts import hit

MODES: tuple[Mode, ...] = ("vector", "keyword", "hybrid")
LISTS: dict[Mode, tuple[str, ...]] = {"vector": ("vector",), "keyword": ("keyword",), "hybrid": ("vector", "keyword")}


def merge(hits: list[dict[str, Any]], mode: Mode, k: int = 100) -> list[dict[str, Any]]:
    """All of them, unless k is given."""
    return merge_best(hits, mode, k)


_scores = st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-1, 20, allow_nan=False)  # ties are common
_hits = st.builds(
    hit,
    st.sampled_from([f"d{number}" for number in range(12)]),
    _scores,
    _scores,
    shard=st.integers(0, 2),
    event_time_ms=st.integers(0, 2),
)
_answers = st.lists(_hits, max_size=30)


def naive_rank(hits: list[dict[str, Any]], document_id: str, field: str) -> int | None:
    """How many documents stand before it, and one."""
    best: dict[str, float] = {}
    for item in hits:
        if item[field] is not None:
            best[item["id"]] = max(item[field], best.get(item["id"], float("-inf")))
    if document_id not in best:
        return None
    mine = best[document_id]
    return 1 + sum(score > mine or (score == mine and other < document_id) for other, score in best.items())


@given(_answers, st.sampled_from(MODES))
def test_every_document_that_was_found_is_there_once_with_its_best_scores_and_its_ranks(
    hits: list[dict[str, Any]], mode: Mode
) -> None:
    merged = {item["id"]: item for item in merge(hits, mode)}
    for name in ("vector", "keyword"):
        used = name in LISTS[mode]
        for document_id, item in merged.items():
            known = [one[f"{name}_score"] for one in hits if one["id"] == document_id]
            scores = [score for score in known if score is not None and used]
            assert item[f"{name}_score"] == (max(scores) if scores else None)
            assert item[f"{name}_rank"] == (naive_rank(hits, document_id, f"{name}_score") if used else None)
    fields = [f"{name}_score" for name in LISTS[mode]]
    assert set(merged) == {one["id"] for one in hits if any(one[field] is not None for field in fields)}
    assert len(merged) == len(merge(hits, mode))


@given(_answers)
def test_in_hybrid_mode_the_order_is_that_of_the_exact_fused_scores(hits: list[dict[str, Any]]) -> None:
    merged = merge(hits, "hybrid")
    exact = []
    for item in merged:
        ranks = (naive_rank(hits, item["id"], "vector_score"), naive_rank(hits, item["id"], "keyword_score"))
        exact.append(sum((Fraction(1, RRF_K + rank) for rank in ranks if rank is not None), Fraction(0)))
        assert item["score"] == pytest.approx(float(exact[-1]), rel=1e-12)
    assert exact == sorted(exact, reverse=True)
    for one, two in pairwise(merged):
        assert one["score"] > two["score"] or one["id"] < two["id"]


@given(_answers, st.sampled_from(("vector", "keyword")))
def test_in_the_single_modes_the_order_is_that_of_the_score_then_the_id(hits: list[dict[str, Any]], mode: Mode) -> None:
    merged = merge(hits, mode)
    assert merged == sorted(merged, key=lambda item: (-item[f"{mode}_score"], item["id"]))
    assert [item["score"] for item in merged] == [item[f"{mode}_score"] for item in merged]


@given(_answers, st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_the_order_in_which_the_shards_answer_does_not_matter(
    hits: list[dict[str, Any]], mode: Mode, chance: random.Random
) -> None:
    copies = {(item["id"], item["shard"]): item for item in hits}  # a shard has a document once
    hits = list(copies.values())
    shuffled = chance.sample(hits, len(hits))
    assert merge(shuffled, mode) == merge(hits, mode)


@given(_answers, st.sampled_from(MODES), st.integers(1, 15))
def test_the_k_best_are_the_first_of_all(hits: list[dict[str, Any]], mode: Mode, k: int) -> None:
    assert merge(hits, mode, k) == merge(hits, mode)[:k]


def test_found_by_both_searches_beats_being_first_in_one() -> None:
    hits = [hit("meaning", 0.9), hit("words", None, 12.0), hit("both", 0.8, 11.0)]
    merged = merge(hits, "hybrid")
    assert [item["id"] for item in merged] == ["both", "meaning", "words"]
    assert merged[0]["score"] == pytest.approx(1 / 62 + 1 / 62)
    assert merged[1]["score"] == merged[2]["score"] == 1 / 61
    assert [(item["vector_rank"], item["keyword_rank"]) for item in merged] == [(2, 2), (1, None), (None, 1)]


def test_a_document_in_two_shards_takes_one_place_and_is_shown_as_the_copy_that_stood_higher() -> None:
    old = hit("a", 0.9, 1.0, shard=0, text="old")
    new = hit("a", 0.8, 5.0, shard=1, text="new")
    merged = merge([old, new, hit("b", 0.85, 3.0), hit("c", 0.95)], "hybrid")
    a = next(item for item in merged if item["id"] == "a")
    assert (a["vector_score"], a["vector_rank"], a["keyword_score"], a["keyword_rank"]) == (0.9, 2, 5.0, 1)
    assert (a["text"], a["shard"]) == ("new", 1)
    b = next(item for item in merged if item["id"] == "b")
    assert (b["vector_rank"], b["keyword_rank"]) == (3, 2)


def test_of_equal_copies_the_one_that_changed_last_is_shown() -> None:
    copies = [hit("a", 0.5, shard=0, event_time_ms=1), hit("a", 0.5, shard=1, event_time_ms=2)]
    assert ranked(copies, "vector_score")["a"][1]["shard"] == 1


def test_a_score_of_a_search_that_was_not_asked_for_is_not_told() -> None:
    (merged,) = merge([hit("a", 0.5, 7.0)], "vector")
    assert (merged["keyword_score"], merged["keyword_rank"], merged["vector_rank"]) == (None, None, 1)
    assert merge([], "hybrid") == []
