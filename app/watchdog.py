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
from contextlib import contextmanager

log = logging.getLogger("headrace.watchdog")

TROUBLE_SHARE = 0.25  # of the limit: from then on /readyz is red
_LOOP = "the event loop"


def _end() -> None:
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(1)


class Watchdog:
    """Watches stages of one process from a thread of its own.

    limit_s: a stage that takes longer ends the process, with the stacks of all threads on stderr; 0: never. Whatever
    was not committed is done again by who comes next.
    """

    def __init__(
        self, limit_s: float, clock: Callable[[], float] = time.monotonic, end: Callable[[], object] = _end
    ) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._end = end
        self._since: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def trouble(self) -> str | None:
        """What has taken suspiciously long, as a sentence; None if nothing has."""
        stage, spent_s = self._slowest()
        if not self._limit_s or spent_s < self._limit_s * TROUBLE_SHARE:
            return None
        return f"{stage} has taken {spent_s:.0f} s so far; after {self._limit_s:.0f} s the process ends"

    @contextmanager
    def watch(self, stage: str) -> Iterator[None]:
        """Inside, the clock of the stage runs; one at a time of each."""
        self._since[stage] = self._clock()
        try:
            yield
        finally:
            self._since.pop(stage, None)

    async def beat(self) -> None:
        """For ever: show that the event loop turns."""
        try:
            while True:
                self._since[_LOOP] = self._clock()
                await asyncio.sleep(1.0)
        finally:
            self._since.pop(_LOOP, None)

    def start(self) -> None:
        """Begin to watch."""
        if self._limit_s:
            self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def look(self) -> None:
        """End the process if something has taken too long."""
        stage, spent_s = self._slowest()
        if spent_s >= self._limit_s:
            log.critical(
                "%s has taken %.0f s (HEADRACE_STALL_TIMEOUT_S=%.0f): ending, to be started again",
                *(stage, spent_s, self._limit_s),
            )
            self._end()

    def _slowest(self) -> tuple[str, float]:
        now = self._clock()
        return max(((stage, now - since) for stage, since in tuple(self._since.items())), key=_spent, default=("", 0.0))

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._limit_s / 10)):
            self.look()


def _spent(item: tuple[str, float]) -> float:
    return item[1]
