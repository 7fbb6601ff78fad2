"""The keyword index of a shard, a moment behind its rows, and how far behind it says it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from app.shard import keyword_feed as module
from app.shard.apply import Change
from app.shard.keyword_feed import KeywordFeed, KeywordView
from app.shard.store import Progress


@pytest.fixture
def feed() -> Iterator[KeywordFeed]:
    made = KeywordFeed("english")
    yield made
    made.close()


def change(*labels: int, removed: tuple[int, ...] = (), text: str = "a shard") -> Change:
    vectors = [np.zeros(2, np.float32)] * len(labels)
    texts: list[tuple[str | None, str]] = [(None, text)] * len(labels)
    return Change(
        labels=list(labels), docs=list(labels), vectors=vectors, metadata=[{}] * len(labels), texts=texts,
        removed=list(removed),
    )  # fmt: skip


def view(offset: int) -> KeywordView:
    return KeywordView(Progress(next_offset=offset), offset)


def labels(feed: KeywordFeed, query: str = "shard") -> list[int]:
    return sorted(hit.label for hit in feed.index.search(query, 10))


def seen(feed: KeywordFeed) -> tuple[int | None, int]:
    return feed.view.progress.next_offset, feed.view.sequence


def test_what_is_put_is_found_with_its_offset_after_a_refresh_and_not_before(feed: KeywordFeed) -> None:
    feed.put(change(1, 2), view(5))
    assert (labels(feed), seen(feed)) == ([], (None, 0))
    assert feed.refresh()
    assert (labels(feed), seen(feed)) == ([1, 2], (5, 5))


def test_several_transactions_are_taken_over_in_their_order(feed: KeywordFeed) -> None:
    feed.put(change(1, 2), view(1))
    feed.put(change(3, removed=(1,)), view(2))
    feed.put(change(removed=(3,)), view(3))
    assert feed.refresh()
    assert (labels(feed), seen(feed)) == ([2], (3, 3))


def test_a_transaction_without_texts_moves_the_view_on(feed: KeywordFeed) -> None:
    feed.put(change(), view(7))
    assert feed.refresh()
    assert seen(feed) == (7, 7)
    feed.put(None, view(8))
    assert feed.refresh()
    assert seen(feed) == (8, 8)


def test_where_nothing_has_come_there_is_nothing_to_do(feed: KeywordFeed) -> None:
    assert not feed.refresh()
    feed.put(change(1), view(1))
    assert (feed.refresh(), feed.refresh()) == (True, False)


def test_what_was_there_at_the_start_is_found_with_what_came_since(feed: KeywordFeed) -> None:
    feed.load([(1, 10, "A shard", "text"), (2, 20, None, "shards"), (3, 30, None, "nothing")])
    feed.put(None, view(9))
    feed.put(change(4, removed=(2,)), view(10))
    assert feed.refresh()
    assert (labels(feed), seen(feed)) == ([1, 4], (10, 10))


def test_the_view_never_says_more_than_can_be_found(feed: KeywordFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that comes while the index commits belongs to the next refresh."""
    refresh = feed.index.refresh

    def refresh_and_more() -> bool:
        feed.put(change(2), view(2))
        return refresh()

    feed.put(change(1), view(1))
    with monkeypatch.context() as patched:
        patched.setattr(feed.index, "refresh", refresh_and_more)
        feed.refresh()
    assert (labels(feed), seen(feed)) == ([1], (1, 1))
    feed.refresh()
    assert (labels(feed), seen(feed)) == ([1, 2], (2, 2))


def test_what_a_refresh_could_not_take_over_is_taken_over_by_the_next(
    feed: KeywordFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.put(change(1), view(1))
    feed.put(change(2, removed=(1,)), view(2))
    for step in ("add", "remove", "refresh"):
        with monkeypatch.context() as patched:
            patched.setattr(feed.index, step, _fail)
            with pytest.raises(RuntimeError):
                feed.refresh()
        assert seen(feed) == (None, 0)
    assert feed.refresh()
    assert (labels(feed), seen(feed)) == ([2], (2, 2))


def test_an_index_that_takes_nothing_does_not_fill_the_memory_and_never_claims_what_was_given_up(
    feed: KeywordFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 5)
    for label in range(1, 9):
        feed.put(change(label), view(label))
    assert feed.refresh(), "much at once is nothing to give up"
    with monkeypatch.context() as patched:
        patched.setattr(feed.index, "add", _panic)
        for label in range(10, 20):
            feed.put(change(label), view(label))
            with pytest.raises((Panic, RuntimeError)):
                feed.refresh()
            assert len(feed._pending) <= 6
    with pytest.raises(RuntimeError, match="given up"):
        feed.refresh()
    assert (labels(feed), seen(feed)) == (list(range(1, 9)), (8, 8))


class Panic(BaseException):
    """As pyo3_runtime.PanicException: no Exception."""


def _panic(*_: object) -> None:
    raise Panic("tantivy panicked")


def _fail(*_: object) -> None:
    raise RuntimeError


def test_it_can_be_closed_twice_and_searched_afterwards(feed: KeywordFeed) -> None:
    feed.put(change(1), view(1))
    feed.refresh()
    feed.close()
    feed.close()
    assert labels(feed) == [1]
