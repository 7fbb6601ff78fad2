"""From ranked chunks to documents: what was replaced or deleted in between, and what both lists found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.shard.apply import Applier
from app.shard.generation import Ranked
from app.shard.hits import MOST_CHUNKS, FoundChunk, ShardHit, by_meaning, by_words, merged
from app.shard.store import ShardStore
from schemas.filters import parse_filter
from tests.unit.shard.parts import EPOCH, delete, document, random_units


class Rows:
    """A store with document a (labels 1 to 3) and document b (label 4)."""

    def __init__(self, folder: Path) -> None:
        self.store = ShardStore(folder / "shard-0.sqlite", EPOCH)
        self._applier = Applier(self.store, EPOCH)
        self._offset = 0
        self.apply(document, "a", random_units(3, 1), metadata={"lang": "en"})
        self.apply(document, "b", random_units(1, 2))

    def apply(self, make: Any, *given: Any, **named: Any) -> None:
        self._applier.apply([make(self._offset, *given, **named)])
        self._offset += 1


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    made = Rows(tmp_path)
    yield made
    made.store.close()


def ids(hits: list[ShardHit] | None) -> list[str]:
    return [hit.document.id for hit in hits or []]


def test_a_hit_shows_its_best_chunk_and_further_ones_with_their_scores(rows: Rows) -> None:
    (hit,) = by_meaning(rows.store, [Ranked(1, 2, 0.9, ((3, 0.8), (1, 0.7)))]) or []
    assert (hit.document.id, hit.text, hit.score, hit.vector_score, hit.keyword_score) == ("a", "b", 0.9, 0.9, None)
    assert [(hit.text_of(chunk), chunk.score) for chunk in hit.chunks] == [("b", 0.9), ("c", 0.8), ("a", 0.7)]


def test_nothing_ranked_is_nothing_found(rows: Rows) -> None:
    assert (by_meaning(rows.store, []), by_words(rows.store, [], None)) == ([], [])


@pytest.mark.parametrize("change", ["update", "delete"])
def test_a_search_by_meaning_is_to_be_repeated_where_a_hit_was_replaced(rows: Rows, change: str) -> None:
    ranked = [Ranked(2, 4, 0.9), Ranked(1, 1, 0.8)]
    assert ids(by_meaning(rows.store, ranked)) == ["b", "a"]
    rows.apply(delete, "a") if change == "delete" else rows.apply(document, "a", random_units(2, 3))
    assert by_meaning(rows.store, ranked) is None


def test_a_hit_by_words_that_was_replaced_since_is_shown_as_it_is_now(rows: Rows) -> None:
    rows.apply(document, "a", random_units(2, 3), text="xy")
    (hit,) = by_words(rows.store, [Ranked(1, 2, 3.5)], None)
    assert (hit.document.id, hit.text, hit.keyword_score, hit.vector_score) == ("a", "x", 3.5, None)


def test_a_hit_by_words_that_is_gone_or_has_no_text_any_more_is_left_out(rows: Rows) -> None:
    rows.apply(delete, "a")
    rows.apply(document, "b", random_units(0, 3))
    assert by_words(rows.store, [Ranked(1, 2, 3.5), Ranked(2, 4, 2.0)], None) == []


def test_a_hit_by_words_that_no_longer_matches_the_filter_is_left_out(rows: Rows) -> None:
    rows.apply(document, "a", random_units(1, 3), metadata={"lang": "de"})
    ranked = [Ranked(1, 2, 3.5)]
    assert by_words(rows.store, ranked, parse_filter({"lang": "en"})) == []
    assert ids(by_words(rows.store, ranked, parse_filter({"lang": "de"}))) == ["a"]


def test_what_both_lists_found_is_one_hit_with_both_scores_and_each_chunk_once(rows: Rows) -> None:
    near = by_meaning(rows.store, [Ranked(1, 2, 0.9, ((3, 0.8),))]) or []
    words = by_words(rows.store, [Ranked(2, 4, 5.0), Ranked(1, 1, 3.0, ((2, 2.0),))], None)
    hits = merged(near, words)
    assert ids(hits) == ["a", "b"]
    assert (hits[0].vector_score, hits[0].keyword_score, hits[0].score) == (0.9, 3.0, 0.9)
    assert [(chunk.start, chunk.score) for chunk in hits[0].chunks] == [(1, 0.9), (2, 0.8), (0, 3.0)]
    assert len(hits[0].chunks) <= MOST_CHUNKS
    assert (hits[1].vector_score, hits[1].keyword_score, hits[1].score) == (None, 5.0, 5.0)


def test_a_document_that_was_replaced_between_the_two_lists_is_shown_in_one_version(rows: Rows) -> None:
    near = by_meaning(rows.store, [Ranked(1, 2, 0.9)]) or []
    rows.apply(document, "a", random_units(1, 3), text="z")
    (hit,) = merged(near, by_words(rows.store, [Ranked(1, 2, 3.0)], None))
    assert (hit.document.text, hit.text, hit.vector_score, hit.keyword_score) == ("z", "z", 0.9, 3.0)
    assert hit.chunks == (FoundChunk(0, 1, 3.0),)
