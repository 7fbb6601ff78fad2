"""What GET /status says of the newest documents of all index workers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from app.freshness.objective import Objective
from app.freshness.recent import RecentDocuments
from tests.unit.freshness.test_recent import stages
from tests.unit.gateway.parts import FakeWorker, gateway


def described(*latencies_ms: float, missed: int = 0, **checks: Any) -> dict[str, Any]:
    """What a worker says that saw documents with these latencies."""
    recent, objective = RecentDocuments(), Objective(1000, 0.99)
    for latency_ms in latencies_ms:
        recent.saw(stages(latency_ms, time.time_ns()))
    objective.count(len(latencies_ms) - missed, missed)
    return {"freshness": recent.told(objective), "checks": checks}


async def test_the_documents_of_all_workers_that_answer_are_told_as_one() -> None:
    workers = FakeWorker(2, 0), FakeWorker(2, 1)
    workers[0].more = described(*[10] * 98, probes={"seen": 3, "failed": 1}, drift={"0": 2, "1": 50})
    workers[1].more = described(2000, 2000, missed=2, probes={"seen": 4}, drift={"1": 0})
    async with gateway(*workers) as served:
        answer = await served.get("/status")
        told = answer["freshness"]
        assert (told["objective_ms"], told["objective_ratio"]) == (1000, 0.99)
        assert told["latency_ms"]["count"] == 100
        assert told["latency_ms"]["p50"] == pytest.approx(10, rel=0.021)
        assert told["latency_ms"]["p99"] == pytest.approx(2000, rel=0.021)
        assert told["windows"]["3600"] == {"met": 98, "missed": 2, "burn": pytest.approx(2)}
        assert answer["checks"] == {"probes": {"seen": 7, "failed": 1}, "drift": 2}, "drift of a shard elsewhere is old"
        await workers[1].stop()
        await served.directory.refresh()
        answer = await served.get("/status")
        assert answer["freshness"]["latency_ms"]["count"] == 98
        assert answer["freshness"]["windows"]["300"]["missed"] == 0
        assert answer["checks"]["probes"] == {"seen": 3, "failed": 1}


async def test_workers_that_tell_nothing_of_it_are_no_trouble() -> None:
    async with gateway(FakeWorker(1, 0)) as served:
        answer = await served.get("/status")
        assert answer["freshness"]["latency_ms"] == {"p50": None, "p99": None, "count": 0}
        assert answer["checks"] == {"probes": {}, "drift": None}
