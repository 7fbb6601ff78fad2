"""Keeps a shard's keyword index a few tens of milliseconds behind its rows, and says how far behind it is."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from tantivy import Searcher

from app.shard.apply import Change
from app.shard.keyword import KeywordIndex
from app.shard.store import Progress

Chunk = tuple[int, int, str | None, str]  # label, row of the document, title, text


_MOST_KEPT = 50_000  # chunks, about as many KB, for an index that takes none: then it has to be built anew


class KeywordView(NamedTuple):
    """What a keyword search sees: everything up to `progress`. sequence: of the generation that holds the same.

    searcher: the state of the index in which it is so.
    """

    progress: Progress
    sequence: int
    searcher: Searcher | None = None


class KeywordFeed:
    """`put` by the writer, `refresh` by one thread, everything else by any."""

    def __init__(self, stemmer: str) -> None:
        self.index = KeywordIndex(stemmer)
        self._lock = threading.Lock()
        self._pending: list[Change] = []
        self._kept = 0  # chunks of them
        self._closed = self._failing = self._lost = False
        self._newest = self.view = KeywordView(Progress(), 0)

    def load(self, chunks: Iterable[Chunk]) -> None:
        """Add what was there at the start; before the first `put`."""
        self.index.add(chunks)

    def put(self, change: Change | None, view: KeywordView) -> None:
        """What a transaction did; it can be found after the next `refresh`. None: nothing, but the view moves on."""
        with self._lock:
            self._newest = view
            if self._lost or change is None or not (change.labels or change.removed):
                return
            self._pending.append(change)
            self._kept += _size(change)
            if self._failing and self._kept > _MOST_KEPT:
                self._lost = True
                self._pending.clear()

    def refresh(self) -> bool:
        """Take over what is pending; returns whether anything moved.

        Raises what the index raises, a panic of tantivy among it; after more changes than can be kept it raises always.
        """
        with self._lock:
            taken, newest = tuple(self._pending), self._newest
            if self._lost:
                raise RuntimeError("the keyword index has taken nothing for too long, and changes were given up")
        if not taken and newest == self.view._replace(searcher=None):
            return False
        try:
            self._take_over(taken)
        except BaseException:
            self._failing = True
            raise
        self.view = newest._replace(searcher=self.index.searcher)
        with self._lock:
            del self._pending[: len(taken)]
            self._kept -= sum(map(_size, taken))
        self._failing = False
        return True

    def _take_over(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if self._failing:  # the last time, half-way
                self.index.remove(change.labels)
            chunks = zip(change.labels, change.docs, change.texts, strict=True)
            self.index.add((label, doc, title, text) for label, doc, (title, text) in chunks)
            self.index.remove(change.removed)
        self.index.refresh()

    def close(self) -> None:
        """No more changes."""
        if not self._closed:
            self._closed = True
            self.index.close()


def _size(change: Change) -> int:
    return len(change.labels) + len(change.removed)
