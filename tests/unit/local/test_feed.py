"""The trickle: what becomes of documents that were published."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import islice

from app.local.corpus import Docstring
from app.local.feed import RETURNS_AFTER, Trickle, changes

DOCUMENTS = [Docstring(f"m.py:f{n}", f"m.f{n}", f"What f{n} does.", {"package": "m"}) for n in range(100)]


def trickle(seed: int = 1) -> Trickle:
    return Trickle(DOCUMENTS, random.Random(seed), lambda: datetime(2026, 1, 31, 12, 0, 1, tzinfo=UTC))


def test_an_edit_carries_a_visible_remark_with_the_time() -> None:
    flow = trickle()
    texts = [change.text for change in (flow.next() for _ in range(50)) if change.text]

    assert any(text.endswith("\n\nEdited at 12:00:01.") for text in texts)


def test_an_edit_is_sometimes_taken_back() -> None:
    flow = trickle()
    originals = {document.id: document.text for document in DOCUMENTS}
    seen = [change for change in (flow.next() for _ in range(500)) if change.op == "upsert"]

    assert any(change.text == originals[change.id] for change in seen)


def test_a_deleted_document_returns_and_is_left_alone_until_then() -> None:
    flow = trickle()
    sequence = [flow.next() for _ in range(500)]
    deletes = [(at, change.id) for at, change in enumerate(sequence[:450]) if change.op == "delete"]

    assert deletes
    for at, document_id in deletes:
        later = [change for change in sequence[at + 1 :] if change.id == document_id]
        assert later[0].op == "upsert"
        assert later[0].text is not None
        assert "Published again" in later[0].text
        assert document_id not in {change.id for change in sequence[at + 1 : at + RETURNS_AFTER]}


def test_a_corpus_of_one_document_goes_on_for_ever() -> None:
    flow = Trickle(DOCUMENTS[:1], random.Random(3))

    assert len([flow.next() for _ in range(100)]) == 100


def test_the_corpus_comes_first_and_whole_then_the_trickle() -> None:
    sequence = list(islice(changes(20, pause_s=0), 25))

    first = [change.id for change in sequence[:20]]
    assert len(set(first)) == 20
    assert all(change.op == "upsert" and change.event_time for change in sequence[:20])
    assert {change.id for change in sequence[20:]} <= set(first)
