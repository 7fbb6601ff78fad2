"""Many queries at once, or one change: the lock around a graph."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Python's locks are not fair: whoever lets go may take again before a waiting thread is awake
_LONGEST_YIELD_S = 0.02
_YIELD_S = 0.00005


class GraphLock:
    """Shared by queries, exclusive for a change. Waiting queries go before the next change, and not for ever."""

    def __init__(self) -> None:
        self._entry = threading.Lock()  # held while entering, and by a change from the moment it wants in
        self._empty = threading.Lock()  # held by the queries together, or by a change
        self._counting = threading.Lock()
        self._inside = 0
        self._waiting = 0

    def enter(self) -> None:
        """For a query; to be followed by `leave`. (A context manager would take longer than the lock itself.)"""
        with self._counting:
            self._waiting += 1
        with self._entry, self._counting:
            self._waiting -= 1
            self._inside += 1
            if self._inside == 1:
                self._empty.acquire()  # free: a change holds `_entry` for as long as it holds this one

    def leave(self) -> None:
        """After `enter`."""
        with self._counting:
            self._inside -= 1
            if self._inside == 0:
                self._empty.release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """For a change; one thread at a time wants it. Ends by letting the queries that wait go first."""
        with self._entry, self._empty:
            yield
        deadline = time.monotonic() + _LONGEST_YIELD_S
        while self._waiting and time.monotonic() < deadline:
            time.sleep(_YIELD_S)
