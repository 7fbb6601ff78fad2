"""Where the time of the newest documents went: a worker counts its own, a gateway adds up what the workers tell."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.freshness.objective import WINDOWS_S, Objective, burn
from app.freshness.sketch import Sketch
from schemas.headers import STAGES, STEPS, Stage

MOST_DOCUMENTS = 2000  # a p99 of fewer rests on a handful; of more it would tell of what is over
_LATELY_NS = 300 * 10**9
_RATE_NS = 10 * 10**9
_NS_OF_MS = 1e6
_LATENCY = "latency"
_QUANTILES = (("p50", 0.5), ("p99", 0.99))
_AT = {stage: column for column, stage in enumerate(STAGES)}


class RecentDocuments:
    """The newest documents that became visible, 2,000 of them at most, none older than five minutes.

    `saw` costs a tenth of a microsecond a document; what is told is worked out when it is asked for, in 1 to 3 ms.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns
        self._new: deque[Mapping[Stage, int]] = deque(maxlen=MOST_DOCUMENTS)
        self._stages = np.empty((0, len(STAGES)), np.int64)

    def saw(self, stages: Mapping[Stage, int]) -> None:
        """The stages of a document, with `produced` and `visible`. One thread; they stay as they are from here on."""
        self._new.append(stages)

    def told(self, objective: Objective) -> dict[str, Any]:
        """What the worker tells gateways: `whole` makes an answer of it. One thread, which may be another one."""
        stages = self._taken()
        sketches = {_LATENCY: Sketch.of(_between(stages, "produced", "visible"))}
        sketches |= {name: Sketch.of(_between(stages, first, last)) for name, first, last in STEPS}
        return {
            "windows": {
                str(seconds): dict(zip(("met", "missed"), objective.window(seconds), strict=True))
                for seconds in WINDOWS_S
            },
            "documents_per_s": self._rate(stages[:, _AT["visible"]]),
            "sketches": {name: sketch.encode() for name, sketch in sketches.items()},
        }

    def _taken(self) -> NDArray[np.int64]:
        new = [self._new.popleft() for _ in range(len(self._new))]  # what is added meanwhile waits for the next time
        if new:
            rows = np.array([[stages.get(stage, 0) for stage in STAGES] for stages in new], np.int64)
            self._stages = np.concatenate([self._stages, rows])[-MOST_DOCUMENTS:]
        lately = self._stages[:, _AT["visible"]] >= self._clock_ns() - _LATELY_NS
        self._stages = self._stages[lately]
        return self._stages

    def _rate(self, visible_ns: NDArray[np.int64]) -> float:
        now_ns = self._clock_ns()
        lately = visible_ns[visible_ns >= now_ns - _RATE_NS]
        whole = len(lately) < MOST_DOCUMENTS  # else more came than are kept: over the time that those took
        span_ns = _RATE_NS if whole else max(now_ns - int(lately[0]), 1)
        return round(len(lately) * 1e9 / span_ns, 1)


def whole(told: Iterable[tuple[str, Mapping[str, Any]]], limit_ms: int, ratio: float) -> dict[str, Any]:
    """Freshness as GET /shards and GET /status give it, of what workers told, each with the name of its replica.

    A document counts once for each replica on which it became visible: the readers of each waited for it. Only the
    rate is that of one replica, the busiest. Quantiles are of the newest documents of each worker together, to within
    2 %; steps have a mean as well, since means add up to the whole. Raises KeyError, TypeError or ValueError where
    something else was told.
    """
    windows = {str(seconds): {"met": 0, "missed": 0} for seconds in WINDOWS_S}
    sketches = {name: Sketch() for name in (_LATENCY, *(name for name, _, _ in STEPS))}
    rates: dict[str, float] = {}
    for replica, one in told:
        for name, sketch in sketches.items():
            if name in one["sketches"]:  # not while workers of two releases run beside each other
                sketch.add(Sketch.decode(one["sketches"][name]))
        for name, window in windows.items():
            for outcome in window:
                window[outcome] += one["windows"][name][outcome]
        rates[replica] = rates.get(replica, 0.0) + one["documents_per_s"]
    latency = sketches.pop(_LATENCY)
    return {
        "objective_ms": limit_ms,
        "objective_ratio": ratio,
        "windows": {
            name: window | {"burn": round(burn(window["met"], window["missed"], ratio), 3)}
            for name, window in windows.items()
        },
        "documents_per_s": round(max(rates.values(), default=0.0), 1),
        "latency_ms": {name: latency.quantile_ms(share) for name, share in _QUANTILES} | {"count": latency.count},
        "steps": {
            step: {f"{name}_ms": sketch.quantile_ms(share) for name, share in _QUANTILES}
            | {"mean_ms": sketch.mean_ms, "count": sketch.count}
            for step, sketch in sketches.items()
        },
    }


def _between(stages: NDArray[np.int64], first: Stage, last: Stage) -> NDArray[np.float64]:
    """ms of those documents that know both; clocks of several machines may disagree: none is negative."""
    begin, end = stages[:, _AT[first]], stages[:, _AT[last]]
    known = (begin > 0) & (end > 0)
    durations_ms: NDArray[np.float64] = np.maximum(end[known] - begin[known], 0) / _NS_OF_MS
    return durations_ms
