"""Every role may end and start again: nothing is lost, and nothing is embedded a second time."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from producers import Position
from tests.integration.conftest import REAL
from tests.services_local import eventually
from tests.stack import Stack, unique

READ_AGAIN = ("redelivered", "unchanged", "stale", "superseded", "dead_letter", "embed")


def published(stack: Stack, count: int = 20) -> tuple[list[str], list[Position]]:
    """Some documents that are indexed, ids and positions."""
    word = unique("group")
    texts = {f"{word}-{number}": f"Document {number} of the {word}." for number in range(count)}
    positions = stack.publish_all(texts)
    stack.search(word, positions)
    return list(texts), positions


def whole(stack: Stack) -> dict[str, dict[str, Any]]:
    """What a search returns of every document, but for what moves with time."""
    hits = stack.hits("document", k=1000)
    return {id: {name: hit[name] for name in ("text", "source_offset", "version")} for id, hit in hits.items()}


@pytest.mark.parametrize("role", ["embed", "index", "search"])
def test_a_role_ends_at_sigterm_and_after_its_restart_nothing_is_lost_and_nothing_embedded_again(
    stack: Stack, role: str
) -> None:
    ids, _ = published(stack)
    before, embedded = whole(stack), stack.model_chunks()

    stack.stop(role, within_s=10)
    stack.start(role)

    new = unique("doc")
    assert new in stack.hits("document", stack.publish(new, f"The new document {new}."), k=1000)
    after = whole(stack)
    assert {id: after[id] for id in before} == before
    assert set(ids) <= set(after)
    assert stack.model_chunks() == (1 if role == "embed" else embedded + 1)
    if role == "index":
        assert applied(stack, "upsert") == 1, "it goes on where its files end"
        assert applied(stack, "redelivered") == 0


def applied(stack: Stack, outcome: str) -> float:
    """Records that the index worker has dealt with since its start."""
    return stack.metrics("index")[f'headrace_index_records_total{{outcome="{outcome}"}}']


def test_an_index_whose_files_are_lost_is_rebuilt_without_the_model(stack: Stack) -> None:
    ids, _ = published(stack)
    before, calls = whole(stack), stack.model_calls()

    stack.stop("index")
    shutil.rmtree(stack.folder / "data")
    stack.start("index")

    after = whole(stack)
    assert after == before
    assert set(ids) <= set(after)
    assert stack.model_calls() == calls


def test_while_workers_are_away_answers_grow_old_and_what_came_is_there_when_they_are_back(stack: Stack) -> None:
    id, gone = unique("doc"), unique("doc")
    stack.search("here", [stack.publish(id, "Old text."), stack.publish(gone, "Still here.")])

    stack.stop("embed")
    positions = [stack.publish(id, "Text from while nobody was there."), stack.delete(gone)]
    assert stack.document(id)["text"] == "Old text."  # type: ignore[index]
    eventually(lambda: stack.search("old")["freshness"]["staleness_ms"] > 1000)
    status, body = stack.post({"query": "old", "max_staleness_ms": 500, "timeout_ms": 200})
    assert status == 504
    assert "max_staleness_ms" in body["error"]["message"]
    stack.stop("index")
    stack.start("embed", "index")

    hits = stack.hits("text", positions, k=1000)
    assert hits[id]["text"] == "Text from while nobody was there."
    assert gone not in hits
    assert stack.search("text", max_staleness_ms=1000, timeout_ms=30_000)["freshness"]["staleness_ms"] < 2000


# the embedded broker takes no offsets from anybody but a group's own members
@pytest.mark.parametrize("stack", [pytest.param("real", marks=REAL)], indirect=True)
def test_events_that_are_read_again_change_nothing_and_need_no_model_call(stack: Stack) -> None:
    ids, positions = published(stack)
    stack.search("document", [*positions, stack.delete(ids[0]), stack.publish(ids[1], f"Edited {ids[1]}.")])
    before = whole(stack)

    stack.stop("embed")
    stack.rewind(stack.settings.embed_group)
    stack.start("embed")

    def read_again() -> bool:
        metrics = stack.metrics("embed")
        seen = sum(metrics[f'headrace_embed_events_total{{outcome="{outcome}"}}'] for outcome in READ_AGAIN)
        return bool(seen >= len(ids) + 2)

    eventually(read_again, within_s=30)
    new = stack.publish(unique("doc"), "Behind them all.")
    stack.search("behind", new)
    assert stack.metrics("embed")['headrace_embed_events_total{outcome="embed"}'] == 1
    assert stack.model_calls() == 1
    after = whole(stack)
    assert {id: after[id] for id in before} == before
    assert ids[0] not in after
