"""Ends a process in which something waits for ever, so that its supervisor starts it again."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger("headrace.watchdog")

TROUBLE_SHARE = 0.25  # of the limit: from then on /readyz is red
_LOOP = "the event loop"
_LAST_WORDS_S = 10.0  # then without them: nobody may be reading stderr


def _end(words: str) -> None:
    given_up = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
    given_up.daemon = True
    given_up.start()
    log.critical(words)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(1)


def _none() -> None:
    return None


def changing(value: Callable[[], object]) -> Callable[[], bool]:
    """An excuse for `Watchdog.watch`: what is watched has moved since it was last looked at."""
    seen: list[object] = [value()]

    def changed() -> bool:
        before, seen[0] = seen[0], value()
        return before != seen[0]

    return changed


@dataclass(slots=True, eq=False)
class _Watched:
    stage: str
    since: float
    limit_s: float
    excuse: Callable[[], object]


class Watchdog:
    """Watches stages of one process from a thread of its own.

    limit_s: a stage that takes longer ends the process, with the stacks of all threads on stderr; 0: never. Whatever
    was not committed is done again by who comes next.
    """

    def __init__(
        self, limit_s: float, clock: Callable[[], float] = time.monotonic, end: Callable[[str], object] = _end
    ) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._end = end
        self._watched: set[_Watched] = set()
        self._beats: list[Future[None]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def trouble(self) -> str | None:
        """What has taken suspiciously long, as a sentence; None if nothing has."""
        slowest = self._slowest() if self._limit_s else None
        if slowest is None or slowest[1] < slowest[0].limit_s * TROUBLE_SHARE:
            return None
        watched, spent_s = slowest
        return f"{watched.stage} has taken {spent_s:.0f} s so far; after {watched.limit_s:.0f} s the process ends"

    @contextmanager
    def watch(self, stage: str, *, least_s: float = 0.0, excuse: Callable[[], object] = _none) -> Iterator[None]:
        """Inside, the clock of the stage runs; in any thread, and in several at once.

        least_s: what it may rightly take, where that is more than the limit. excuse: while that is true, the clock
        begins anew at every look; called by any thread, and must not raise.
        """
        watched = self._begin(stage, max(self._limit_s, least_s), excuse)
        try:
            yield
        finally:
            self._watched.discard(watched)

    async def beat(self, stage: str = _LOOP) -> None:
        """For ever: show that this event loop turns."""
        await self._beat(self._begin(stage, self._limit_s))

    def watch_loop(self, loop: asyncio.AbstractEventLoop, stage: str) -> None:
        """Watch the event loop of another thread, until `stop`."""
        watched = self._begin(stage, self._limit_s)  # now: it may hang before it comes to that
        self._beats.append(asyncio.run_coroutine_threadsafe(self._beat(watched), loop))

    def start(self) -> None:
        """Begin to watch."""
        if self._limit_s:
            self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        for beat in self._beats:
            beat.cancel()

    def look(self) -> None:
        """End the process if something has taken too long."""
        slowest = self._slowest()
        if slowest is not None and slowest[1] >= slowest[0].limit_s:
            watched, spent_s = slowest
            self._end(
                f"{watched.stage} has taken {spent_s:.0f} s, more than {watched.limit_s:.0f} s "
                f"(HEADRACE_STALL_TIMEOUT_S={self._limit_s:.0f}): ending, to be started again"
            )

    def _begin(self, stage: str, limit_s: float, excuse: Callable[[], object] = _none) -> _Watched:
        watched = _Watched(stage, self._clock(), limit_s, excuse)
        self._watched.add(watched)
        return watched

    async def _beat(self, watched: _Watched) -> None:
        try:
            while True:
                watched.since = self._clock()
                await asyncio.sleep(1.0)
        finally:
            self._watched.discard(watched)

    def _slowest(self) -> tuple[_Watched, float] | None:
        """What is nearest to its limit, and how long it has taken."""
        now = self._clock()
        found = []
        for watched in self._watched.copy():
            if watched.excuse():
                watched.since = now
            found.append((watched, now - watched.since))
        return max(found, key=_share, default=None)

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._limit_s / 10)):
            self.look()


def _share(item: tuple[_Watched, float]) -> float:
    return item[1] / item[0].limit_s
