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
        self._closed = self._unfinished = False
        self._newest = self.view = KeywordView(Progress(), 0)

    def load(self, chunks: Iterable[Chunk]) -> None:
        """Add what was there at the start; before the first `put`."""
        self.index.add(chunks)

    def put(self, change: Change | None, view: KeywordView) -> None:
        """What a transaction did; it can be found after the next `refresh`. None: nothing, but the view moves on."""
        with self._lock:
            self._newest = view
            if change is not None and (change.labels or change.removed):
                self._pending.append(change)

    def refresh(self) -> bool:
        """Take over what is pending; returns whether anything moved."""
        with self._lock:
            count, newest = len(self._pending), self._newest
        if not count and newest == self.view._replace(searcher=None):
            return False
        again, self._unfinished = self._unfinished, True
        for change in self._pending[:count]:
            if again:  # the last time this failed half-way
                self.index.remove(change.labels)
            chunks = zip(change.labels, change.docs, change.texts, strict=True)
            self.index.add((label, doc, title, text) for label, doc, (title, text) in chunks)
            self.index.remove(change.removed)
        self.index.refresh()
        self.view = newest._replace(searcher=self.index.searcher)
        with self._lock:
            del self._pending[:count]
        self._unfinished = False
        return True

    def close(self) -> None:
        """No more changes."""
        if not self._closed:
            self._closed = True
            self.index.close()
