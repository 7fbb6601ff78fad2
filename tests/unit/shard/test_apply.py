"""Records into rows: what counts, what is left out, and what is told of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.shard.shard import Shard
from schemas.errors import BadRequest, NotServing
from tests.unit.shard.parts import (
    NOW_MS,
    delete,
    document,
    drain,
    found,
    headers,
    open_shard,
    record_event,
    unit,
    watermark,
)


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    opened = open_shard(tmp_path)
    yield opened
    opened.close()


def test_a_hit_is_the_document_with_its_best_chunk(shard: Shard) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    event = document(
        3, "a", [unit(1), unit(0, 1)], text="né", metadata={"lang": "fr"}, version=4, traceparent=traceparent
    )
    change = shard.apply([event])
    (hit,) = shard.search(unit(0, 1), 5, None, "m")
    assert (hit.text, round(hit.score, 3)) == ("é", 1.0)
    stored = hit.document
    assert (stored.id, stored.title, stored.text, stored.metadata) == ("a", "title of a", "né", {"lang": "fr"})
    assert (stored.version, stored.source_offset, stored.event_time_ms, stored.trace_id) == (4, 3, NOW_MS, "a" * 32)
    assert [(item.id, item.chunks, item.headers.source_offset) for item in change.documents] == [("a", 2, 3)]


def test_a_late_record_does_not_resurrect_a_deleted_document(shard: Shard) -> None:
    shard.apply([document(0, "a", unit(1), source_offset=5)])
    shard.apply([delete(1, "a", source_offset=7)])
    change = shard.apply([document(2, "a", unit(1), source_offset=6)])
    assert (dict(change.outcomes), found(shard, unit(1))) == ({"stale": 1}, [])
    stored = shard.document("a")
    assert stored is not None
    assert (stored.deleted, stored.source_offset, stored.text) == (True, 7, None)


def test_a_delete_of_a_document_never_seen_keeps_its_place(shard: Shard) -> None:
    shard.apply([delete(0, "a", source_offset=7)])
    shard.apply([document(1, "a", unit(1), source_offset=6)])
    assert (found(shard, unit(1)), shard.status().documents, shard.status().chunks) == ([], 0, 0)
    shard.apply([document(2, "a", unit(1), source_offset=8)])
    assert (found(shard, unit(1)), shard.status().documents) == (["a"], 1)


def test_the_version_counts_before_the_offset(shard: Shard) -> None:
    shard.apply([document(0, "a", unit(1), source_offset=5, version=2, text="x")])
    shard.apply([document(1, "a", unit(1), source_offset=9, version=1, text="y")])
    stored = shard.document("a")
    assert stored is not None
    assert (stored.text, stored.version) == ("x", 2)


def test_a_floor_keeps_older_versions_out_but_does_not_make_the_change_itself_old(shard: Shard) -> None:
    shard.apply([document(0, "a", unit(1), source_offset=5, version=7, text="x")])
    shard.apply([document(1, "a", unit(1), source_offset=6, version_floor=2, text="y")])
    shard.apply([document(2, "b", unit(1), source_offset=7, version_floor=4, text="z")])
    late = [document(3, name, unit(1), source_offset=8, version=3, text="late") for name in "ab"]
    assert dict(shard.apply([item._replace(offset=3 + n) for n, item in enumerate(late)]).outcomes) == {"stale": 2}
    a, b = shard.document("a"), shard.document("b")
    assert a is not None
    assert b is not None
    assert [(a.text, a.version), (b.text, b.version)] == [("y", 7), ("z", 4)]


def test_one_id_several_times_in_a_transaction_leaves_only_its_last_chunks(shard: Shard) -> None:
    shard.apply([document(0, "a", unit(1))])
    change = shard.apply(
        [
            document(1, "a", [unit(0, 1), unit(0, 0, 1)]),
            document(2, "b", unit(1)),
            document(3, "a", unit(0, 0, 0, 1)),
            delete(4, "b"),
            document(5, "a", unit(0, 0, 0, 0, 1), text="z"),
        ]
    )
    assert (len(change.labels), len(change.removed), len(change.documents)) == (1, 1, 5)
    assert [hit.text for hit in shard.search(unit(1), 5, None, None)] == ["z"]
    assert (shard.status().documents, shard.status().chunks) == (1, 1)
    drain(shard)
    assert found(shard, unit(0, 0, 0, 0, 1)) == ["a"]


def test_a_document_without_text_is_stored_but_not_found(shard: Shard) -> None:
    shard.apply([document(0, "a", np.empty((0, 8), np.float32))])
    assert (found(shard, unit(1)), shard.status().documents, shard.status().chunks) == ([], 1, 0)
    stored = shard.document("a")
    assert stored is not None
    assert not stored.deleted


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (record_event(1, b"b", b"damaged", headers("document", 1)), "not a vector record"),
        (record_event(1, b"b", None, headers("document", 1)), "a document without a value"),
        (document(1, "b", unit(1))._replace(headers=()), "headrace-kind is missing"),
        (document(1, "b", unit(1))._replace(headers=(("headrace-kind", b"cat"),)), "unknown headrace-kind"),
    ],
)
def test_a_damaged_record_is_left_out_and_told_and_its_neighbours_applied(
    shard: Shard, event: object, reason: str
) -> None:
    change = shard.apply([document(0, "a", unit(1)), event, document(2, "c", unit(0, 1))])  # type: ignore[list-item]
    assert dict(change.outcomes) == {"upsert": 2, "rejected": 1}
    ((rejected, error),) = change.rejected
    assert rejected.offset == 1
    assert reason in error.reason
    assert (found(shard, unit(1)), shard.next_offset) == (["a", "c"], 3)


def test_a_record_from_before_the_topics_were_made_again_changes_nothing_but_the_offset(shard: Shard) -> None:
    change = shard.apply([document(4, "a", unit(1), epoch="older"), watermark(5, 99, epoch="older")])
    assert dict(change.outcomes) == {"foreign_epoch": 2}
    assert (shard.next_offset, shard.status().applied_offset, found(shard, unit(1))) == (6, None, [])


def test_a_watermark_moves_freshness_and_never_backwards(shard: Shard) -> None:
    shard.apply([watermark(0, 9, as_of_ms=500)])
    assert (shard.status().applied_offset, shard.status().as_of_ms) == (9, 500)
    shard.apply([watermark(1, 9, as_of_ms=700), watermark(2, 4, as_of_ms=900)])
    assert (shard.status().applied_offset, shard.status().as_of_ms) == (9, 700)
    shard.apply([watermark(3, 10, as_of_ms=600)])
    assert (shard.status().applied_offset, shard.status().as_of_ms) == (10, 700)
    assert shard.status().words_as_of_ms is None, "what the keyword index shows is told by itself"
    shard.refresh_keywords()
    assert shard.status().words_as_of_ms == 700


def test_a_shard_is_ready_once_it_has_come_as_far_as_the_topic_went(shard: Shard) -> None:
    assert not shard.ready
    shard.ready_at = 2
    shard.apply([document(0, "a", unit(1))])
    assert (shard.ready, shard.status().state) == (False, "catching up")
    shard.apply([watermark(1, 0)])
    assert (shard.ready, shard.status().state) == (True, "ready")


def test_an_empty_topic_makes_a_ready_shard(shard: Shard) -> None:
    shard.ready_at = 0
    assert shard.ready


def test_listeners_hear_of_every_transaction_until_they_forget(shard: Shard) -> None:
    heard: list[int | None] = []
    forget = shard.listen(lambda: heard.append(shard.status().applied_offset))
    shard.apply([document(0, "a", unit(1))])
    shard.apply([watermark(1, 5)])
    forget()
    shard.apply([watermark(2, 6)])
    assert heard == [0, 5]


def test_a_query_of_another_length_or_model_is_refused_with_both_named(shard: Shard) -> None:
    assert shard.search(np.ones(3, np.float32), 1, None, "other") == []  # empty: it fits everything
    shard.apply([document(0, "a", unit(1))])
    with pytest.raises(BadRequest, match="has 3 dimensions, the index has 8"):
        shard.search(np.ones(3, np.float32), 1, None, None)
    with pytest.raises(NotServing, match="holds vectors of m, the query is of other"):
        shard.search(unit(1), 1, None, "other")
