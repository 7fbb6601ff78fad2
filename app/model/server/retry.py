"""Asks a server again while that makes sense: back-off with full jitter, and one pause for all when it says so."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.model.server.answer import Failure, Rows
from app.model.server.api import EmbeddingsApi

_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 8.0
_LONGEST_PAUSE_S = 3600.0  # "come back next month" is tried again after an hour all the same

_log = logging.getLogger("headrace.model")


@dataclass(frozen=True, slots=True)
class Patience:
    """attempts: requests at most. total_s: no attempt begins later than this after the first could have."""

    attempts: int
    total_s: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Clock (seconds, monotonic), sleep and chance (0 to 1), so that tests need not wait."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


class PatientApi:
    """EmbeddingsApi with at most `concurrency` requests at a time, each repeated while the failure is "later".

    A request that waits to be repeated keeps its place: a server in trouble is asked less. When it answers 429, or
    says how long to wait, everybody waits, also in later calls.
    """

    def __init__(self, api: EmbeddingsApi, concurrency: int, timing: Timing) -> None:
        self.api = api
        self._slots = asyncio.Semaphore(concurrency)
        self._timing = timing
        self._not_before_s = 0.0
        self._paused_by = Failure("later", "")

    async def ask(self, texts: Sequence[str], patience: Patience) -> Rows | Failure:
        """The vectors, or the last failure. A wait that would exceed `patience` is not begun."""
        async with self._slots:
            give_up_at_s = self._timing.clock() + patience.total_s
            answer: Rows | Failure = self._paused_by
            delay_s = 0.0
            for attempt in range(patience.attempts):
                if not await self._waited(delay_s, give_up_at_s):
                    return self._paused_by if attempt == 0 else answer
                answer = await self.api.ask(texts)
                if not isinstance(answer, Failure) or answer.kind != "later":
                    return answer
                delay_s = self._delay_s(attempt, answer)
                _log.debug("%s: %s (attempt %d)", self.api.shown, answer.reason, attempt + 1)
            return answer

    def _delay_s(self, attempt: int, failure: Failure) -> float:
        """How long this request waits; whether the others wait as well is noted."""
        backoff_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**attempt) * self._timing.chance()
        if failure.status == 429 or failure.after_s is not None:
            pause_s = backoff_s if failure.after_s is None else min(failure.after_s, _LONGEST_PAUSE_S)
            until_s = self._timing.clock() + pause_s
            if until_s > self._not_before_s:
                self._not_before_s, self._paused_by = until_s, failure
        return backoff_s + (failure.after_s or 0.0)

    async def _waited(self, delay_s: float, give_up_at_s: float) -> bool:
        """Sleep until delay and pause are over; False, at once, if that would be too late."""
        until_s = self._timing.clock() + delay_s
        while (now_s := self._timing.clock()) < max(until_s, self._not_before_s):
            if until_s < self._not_before_s:  # spread those whom another's 429 stopped
                until_s = self._not_before_s + _FIRST_BACKOFF_S * self._timing.chance()
            if until_s > give_up_at_s:
                return False
            await self._timing.sleep(until_s - now_s)
        return True
