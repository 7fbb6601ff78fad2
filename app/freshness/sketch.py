"""Many durations in few numbers that can be added up: quantiles of several workers' documents are quantiles of all.

Counts by buckets whose bounds grow by a constant factor (DDSketch: Masson, Rim, Lee, VLDB 2019).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GROWTH = 1.04  # a quantile is off by 2 % at most; 60 buckets are a factor of ten
_LEAST_MS = 0.001  # what is less counts as this


class Sketch:
    """How often which duration came."""

    def __init__(self) -> None:
        self.count = 0
        self.sum_ms = 0.0
        self._buckets: Counter[int] = Counter()

    @classmethod
    def of(cls, durations_ms: NDArray[np.float64]) -> Sketch:
        """One-dimensional, none of them NaN."""
        sketch = cls()
        sketch.count = len(durations_ms)
        sketch.sum_ms = float(durations_ms.sum())
        places = np.ceil(np.log(np.maximum(durations_ms, _LEAST_MS)) / math.log(_GROWTH)).astype(int)
        buckets, counts = np.unique(places, return_counts=True)
        sketch._buckets.update(dict(zip(buckets.tolist(), counts.tolist(), strict=True)))
        return sketch

    @classmethod
    def decode(cls, told: Mapping[str, Any]) -> Sketch:
        """What `encode` made. Raises KeyError, TypeError or ValueError."""
        sketch = cls()
        sketch.count, sketch.sum_ms = int(told["count"]), float(told["sum_ms"])
        sketch._buckets.update({int(bucket): int(count) for bucket, count in told["buckets"]})
        return sketch

    def encode(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"count": self.count, "sum_ms": round(self.sum_ms, 3), "buckets": sorted(self._buckets.items())}

    def add(self, other: Sketch) -> None:
        """Count what the other one counted, too."""
        self.count += other.count
        self.sum_ms += other.sum_ms
        self._buckets.update(other._buckets)

    @property
    def mean_ms(self) -> float | None:
        """Exact; None of nothing."""
        return round(self.sum_ms / self.count, 3) if self.count else None

    def quantile_ms(self, share: float) -> float | None:
        """The duration that this share (0 to 1) of all does not exceed, to within 2 %; None of nothing."""
        left = share * self.count
        for bucket, count in sorted(self._buckets.items()):
            left -= count
            if left <= 0:
                return round(float(_GROWTH ** (bucket - 0.5)), 3)
        return None
