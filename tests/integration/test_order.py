"""Changes that come late, twice, backwards, before their time or without a version: what is found in the end."""

from __future__ import annotations

from typing import NamedTuple

import orjson
import pytest

from producers import Position
from schemas.dead_letter import DeadLetter, replay_headers
from tests.stack import Stack, unique


class Step(NamedTuple):
    """One change. text: None for a delete. null: a record without a value, as Debezium writes after a delete."""

    text: str | None
    version: int | None = None
    null: bool = False


NULL = Step(None, null=True)
HISTORIES: dict[str, tuple[list[Step], str | None]] = {
    "versions out of order": ([Step("three", 3), Step("one", 1), Step("two", 2)], "three"),
    "a version that goes backwards and on again": ([Step("a", 5), Step("b", 2), Step("c", 5), Step("d", 6)], "d"),
    "every change twice": ([Step("a", 1), Step("a", 1), Step("b", 2), Step("b", 2), Step("a", 1)], "b"),
    "delete before upsert": ([Step(None, 5), Step("late", 4)], None),
    "delete before a newer upsert": ([Step(None, 5), Step("newer", 6)], "newer"),
    "upsert after the delete of a newer version": ([Step("a", 1), Step("b", 2), Step(None, 3), Step("b", 2)], None),
    "a null value after a delete": ([Step("a", 1), Step(None, 2), NULL, Step("late", 1)], None),
    "a null value after a delete, then a newer version": ([Step("a", 1), Step(None, 2), NULL, Step("b", 3)], "b"),
    "a null value of what nobody knows": ([NULL, Step("a"), NULL, NULL], None),
    "without a version after one with": ([Step("a", 5), Step("b"), Step("late", 4)], "b"),
    "without a version between two": ([Step("a", 5), Step("b"), Step("c", 6), Step("d")], "d"),
    "a delete without a version keeps the version": ([Step("a", 5), Step(None), Step("late", 4)], None),
}


def publish(stack: Stack, document_id: str, step: Step) -> Position:
    if step.null:
        return stack.produce(document_id.encode(), None)
    fields = {"op": "delete" if step.text is None else "upsert", "id": document_id, "text": step.text}
    value = fields | ({} if step.version is None else {"version": step.version})
    return stack.produce(document_id.encode(), orjson.dumps(value))


@pytest.mark.parametrize("name", HISTORIES)
def test_what_is_found_is_what_the_order_says_in_one_batch_or_in_many(stack: Stack, name: str) -> None:
    steps, left = HISTORIES[name]
    word = unique("order")
    together, apart = f"{word}-together", f"{word}-apart"
    for step in steps:
        stack.search(word, publish(stack, apart, step))  # applied before the next one is published
    positions = [publish(stack, together, step) for step in steps]
    stack.search(word, positions)

    for document_id in (together, apart):
        found = stack.document(document_id)
        assert (None if found is None else found["text"]) == left
        assert (document_id in stack.hits(left or word, positions, k=1000)) == (left is not None)


@pytest.mark.parametrize(("forced", "left"), [(False, "newer"), (True, "older")])
def test_a_dead_letter_that_is_replayed_behind_a_newer_change_undoes_it_only_by_force(
    stack: Stack, forced: bool, left: str
) -> None:
    word = unique("replay")
    failed = stack.produce(word.encode(), b"{")
    stack.search(word, publish(stack, word, Step("newer")))
    letter = DeadLetter(failed.topic, failed.partition, failed.offset, "decode", "InvalidChange", "broken", 0)
    value = orjson.dumps({"op": "upsert", "id": word, "text": "older"})
    replayed = stack.produce(word.encode(), value, replay_headers([], letter, forced=forced))
    stack.search(word, replayed)
    found = stack.document(word)
    assert found is not None
    assert found["text"] == left
