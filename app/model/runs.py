"""The shape of model calls: texts of similar length together, under a budget of padded tokens."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.model.token_model import Mask, TokenIds

log = logging.getLogger("headrace.model")

# What a call costs beside its tokens, in tokens: with AMX a call of one text of 16 tokens takes 2.6 ms, of 240 14 ms.
_CALL_TOKENS = 64
# A shape that is new to the model costs some 30 ms at its first use, as much as a whole run: so runs have one of a few
# numbers of rows, filled up with rows of padding.
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_SMALLER = (1, 2, 3, 4, 6, 8)  # parts of the budget that are tried where lanes would stand idle
_LEAST_TOKENS = 16
_RECOVERY_S = 30.0
_RECOVERY_RATIO = 1.25


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of the text at `index` of the caller's texts."""

    index: int
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the model: texts, longest first, and the length to which they are padded, in tokens.

    rows: of the call; those beyond the texts are padding.
    """

    texts: Sequence[Tokens]
    length: int
    rows: int

    @property
    def tokens(self) -> int:
        """Without padding."""
        return sum(len(text.ids) for text in self.texts)

    @property
    def padded_tokens(self) -> int:
        """What the model computes."""
        return self.rows * self.length

    def arrays(self, pad_id: int) -> tuple[TokenIds, Mask]:
        """Ids and mask, both of shape (rows, length)."""
        ids = np.full((self.rows, self.length), pad_id, np.int32)
        mask = np.zeros(ids.shape, np.bool_)
        mask[len(self.texts) :, 0] = True  # a mean over no tokens would not be finite
        for row, text in enumerate(self.texts):
            ids[row, : len(text.ids)] = text.ids
            mask[row, : len(text.ids)] = True
        return ids, mask


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One call of the model as it was. budget_tokens: how many padded tokens it might have had."""

    texts: int
    tokens: int
    padded_tokens: int
    seconds: float
    budget_tokens: int


def plan(texts: Sequence[Tokens], budget: int, step: int) -> list[Run]:
    """Cut texts, longest first, into runs of at most `budget` tokens with padding, at least one text each.

    step: lengths are padded to a multiple of it. Of all ways to put texts of neighbouring lengths together this is the
    one that costs least, where a call costs its padded tokens and _CALL_TOKENS more (dynamic programming over the
    different lengths; those of one length stay together).
    """
    if not texts:
        return []
    lengths = [max(1, -(-len(text.ids) // step)) * step for text in texts]
    borders = [0, *(at for at in range(1, len(texts)) if lengths[at] != lengths[at - 1]), len(texts)]
    least = [0.0]  # what the texts before each border cost
    begins = [0]  # at which border the last group before each border begins
    for end in range(1, len(borders)):
        costs = [
            least[begin] + _cost(borders[end] - borders[begin], lengths[borders[begin]], budget) for begin in range(end)
        ]
        begins.append(min(range(end), key=costs.__getitem__))
        least.append(costs[begins[-1]])
    groups: list[tuple[int, int]] = []
    at = len(borders) - 1
    while at > 0:
        groups.append((borders[begins[at]], borders[at]))
        at = begins[at]
    runs = []
    for first, end in reversed(groups):
        most = max(1, budget // lengths[first])
        for start in range(first, end, most):
            own = texts[start : min(end, start + most)]
            runs.append(Run(own, lengths[first], _rows(len(own), most)))
    return runs


def plan_end(texts: Sequence[Tokens], budget: int, step: int, lanes: int) -> list[Run]:
    """As `plan`, for the last texts of a batch: smaller runs where `lanes` runs at a time are then done sooner.

    With runs of the whole budget one lane would often have nothing to do while the other is at its last run. The
    largest run comes first.
    """
    plans = [plan(texts, max(1, budget // part), step) for part in (_SMALLER if lanes > 1 else (1,))]
    soonest = min(plans, key=lambda runs: _span(runs, lanes))
    return sorted(soonest, key=lambda run: -run.padded_tokens)


def _span(runs: Sequence[Run], lanes: int) -> float:
    """When the last of the runs would be done, in tokens, each taken by the lane that is free first."""
    ends = [0.0] * lanes
    for run in sorted(runs, key=lambda run: -run.padded_tokens):
        ends[ends.index(min(ends))] += run.padded_tokens + _CALL_TOKENS
    return max(ends)


def _rows(count: int, most: int) -> int:
    """The least number of rows for so many texts (at most `most`); `most` is one of them."""
    at = bisect_left(_ROWS, count)
    return min(most, _ROWS[at]) if at < len(_ROWS) else most


def _cost(count: int, length: int, budget: int) -> float:
    most = max(1, budget // length)
    full, rest = divmod(count, most)
    rows = full * most + (_rows(rest, most) if rest else 0)
    return rows * length + (full + (rest > 0)) * _CALL_TOKENS


class TokenBudget:
    """How many padded tokens a call may have. Halves when memory runs out, grows back by a quarter every 30 s.

    Called by any thread.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._tokens = most
        self._changed_at = 0.0
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """At present."""
        with self._lock:
            if self._tokens < self._most and self._clock() - self._changed_at >= _RECOVERY_S:
                self._set(min(self._most, int(self._tokens * _RECOVERY_RATIO) + 1))
                if self._tokens == self._most:
                    log.info("memory suffices again: calls of the model have up to %d tokens as before", self._most)
            return self._tokens

    def ran_out(self, tokens: int) -> None:
        """There was no memory for a call of so many padded tokens."""
        with self._lock:
            smaller = max(_LEAST_TOKENS, min(self._tokens, tokens) // 2)
            self._set(smaller)
        log.warning("no memory for %d tokens in one call of the model: at most %d from now on", tokens, smaller)

    def _set(self, tokens: int) -> None:
        self._tokens = tokens
        self._changed_at = self._clock()
