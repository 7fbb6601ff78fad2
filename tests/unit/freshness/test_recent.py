"""The newest documents: their quantiles, what becomes too old, and several workers as one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import orjson
import pytest

from app.freshness.objective import Objective
from app.freshness.recent import MOST_DOCUMENTS, RecentDocuments, whole
from app.freshness.sketch import Sketch
from schemas.headers import STAGES, STEPS, Stage

MS = 10**6
SECOND = 1000 * MS
START = 1_800_000_000 * SECOND


class Clock:
    now = START

    def __call__(self) -> int:
        return self.now


def stages(latency_ms: float, visible_ns: int) -> dict[Stage, int]:
    """A document that spent the same time in each step."""
    step_ns = latency_ms * MS / (len(STAGES) - 1)
    produced_ns = visible_ns - int(latency_ms * MS)
    return {stage: produced_ns + int(number * step_ns) for number, stage in enumerate(STAGES)}


def told(recent: RecentDocuments, met: int = 0, missed: int = 0) -> dict[str, Any]:
    objective = Objective(1000, 0.99)
    objective.count(met, missed)
    answer: dict[str, Any] = orjson.loads(orjson.dumps(recent.told(objective)))
    return answer


def merged(*workers: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return whole(workers, 1000, 0.99)


def test_of_nothing_nothing_is_said() -> None:
    answer = merged(("0", told(RecentDocuments())))
    assert answer["latency_ms"] == {"p50": None, "p99": None, "count": 0}
    assert list(answer["steps"]) == [name for name, _, _ in STEPS]
    assert answer["windows"]["300"] == {"met": 0, "missed": 0, "burn": 0}
    assert answer["documents_per_s"] == 0
    assert merged() == answer, "and of nobody the same"


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_of_several_workers_are_those_of_all_their_documents(seed: int) -> None:
    chance = random.Random(seed)
    clock = Clock()
    latencies: list[float] = []
    answers = []
    for replica in "001":
        recent = RecentDocuments(clock)
        own = [chance.lognormvariate(4, 1.5) for _ in range(chance.randrange(1, MOST_DOCUMENTS))]
        for latency_ms in own:
            recent.saw(stages(latency_ms, clock.now))
        latencies += own
        answers.append((replica, told(recent)))
    answer = merged(*answers)
    p50, p99 = np.quantile(latencies, [0.5, 0.99], method="inverted_cdf")
    assert answer["latency_ms"] == {
        "p50": pytest.approx(p50, rel=0.021),
        "p99": pytest.approx(p99, rel=0.021),
        "count": len(latencies),
    }
    embed = answer["steps"]["embed"]
    assert embed["p50_ms"] == pytest.approx(p50 / 8, rel=0.021)
    assert embed["mean_ms"] == pytest.approx(np.mean(latencies) / 8, rel=1e-3)
    assert sum(step["mean_ms"] for step in answer["steps"].values()) == pytest.approx(np.mean(latencies), rel=1e-3)


def test_only_the_newest_documents_count_and_none_that_is_older_than_five_minutes() -> None:
    clock = Clock()
    recent = RecentDocuments(clock)
    for number in range(MOST_DOCUMENTS + 10):
        recent.saw(stages(1000 if number < 10 else 10, clock.now))
    answer = merged(("0", told(recent)))
    assert answer["latency_ms"]["count"] == MOST_DOCUMENTS
    assert answer["latency_ms"]["p99"] == pytest.approx(10, rel=0.021)
    clock.now += 200 * SECOND
    recent.saw(stages(20, clock.now))
    assert merged(("0", told(recent)))["latency_ms"]["count"] == MOST_DOCUMENTS
    clock.now += 200 * SECOND
    assert merged(("0", told(recent)))["latency_ms"]["count"] == 1


def test_a_step_that_a_document_does_not_know_is_not_counted_and_none_is_negative() -> None:
    recent = RecentDocuments(Clock())
    recent.saw({"produced": START, "embedded": START + 9 * MS, "published": START + 5 * MS, "visible": START - MS})
    answer = merged(("0", told(recent)))
    assert answer["latency_ms"]["count"] == 1
    assert answer["latency_ms"]["p99"] < 0.002
    assert answer["steps"]["embed"] == {"p50_ms": None, "p99_ms": None, "mean_ms": None, "count": 0}
    assert answer["steps"]["publish vectors"]["p50_ms"] < 0.002


def test_windows_are_added_up_and_the_burn_is_that_of_all() -> None:
    answer = merged(("0", told(RecentDocuments(), 90, 0)), ("0", told(RecentDocuments(), 0, 10)))
    assert answer["windows"]["300"] == {"met": 90, "missed": 10, "burn": pytest.approx(10)}


def test_the_rate_is_that_of_the_busiest_replica_and_of_more_than_is_kept_too() -> None:
    clock = Clock()
    few, many = RecentDocuments(clock), RecentDocuments(clock)
    for number in range(3 * MOST_DOCUMENTS):
        clock.now += MS
        many.saw(stages(5, clock.now))
        if number >= 3 * MOST_DOCUMENTS - 50:
            few.saw(stages(5, clock.now))
    slow, fast = told(few), told(many)
    assert slow["documents_per_s"] == 5
    assert fast["documents_per_s"] == pytest.approx(1000, rel=0.01)
    assert merged(("0", slow), ("1", fast), ("0", slow))["documents_per_s"] == fast["documents_per_s"]
    assert merged(("0", slow), ("0", fast))["documents_per_s"] == pytest.approx(fast["documents_per_s"] + 5)


@pytest.mark.parametrize("wrong", [{}, {"count": 1, "sum_ms": 1}, {"count": 1, "sum_ms": 1, "buckets": [["a", 1]]}])
def test_what_is_no_sketch_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Sketch.decode(wrong)
