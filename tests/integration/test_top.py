"""What `headrace top`, `headrace status` and GET /status say of documents that went through a running stack."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx

from app.local.broker import EmbeddedBroker
from app.local.process import headrace_command
from app.local.redis import LocalRedis
from schemas.headers import STEPS
from tests.conftest import MakeStack
from tests.services_local import eventually
from tests.stack import Stack, unique


def headrace(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*headrace_command(*arguments), "--url", stack.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_times_of_documents_are_told_by_every_worker_and_together(
    make_stack: MakeStack, embedded_broker: EmbeddedBroker, small_redis: LocalRedis, tmp_path: Path
) -> None:
    # no document of this test is slow, however busy the machine
    patient = {"freshness_objective_ms": 3_600_000, "probe_one_in": 1}
    stack = make_stack(embedded_broker.address, small_redis.url, embedded_broker_id="test", **patient)
    stack.add_index("index-b", tmp_path / "data-b", replica="1")
    stack.start()

    stack.search("x", stack.publish_all({unique("doc"): f"Number {number} of many." for number in range(30)}))
    eventually(lambda: stack.status()["freshness"]["latency_ms"]["count"] == 60, within_s=60)

    def lag(stage: str) -> list[dict[str, Any]]:
        return list(stack.status()["lag"][stage].values())

    # the embedded broker tells it, too
    none = [{"records": 0, "seconds": 0.0}] * stack.settings.partitions
    eventually(lambda: lag("embed") == lag("index") == none, within_s=30)

    told = stack.status()["freshness"]
    latency = told["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"]
    assert list(told["steps"]) == [name for name, _, _ in STEPS]
    assert [step["count"] for step in told["steps"].values()] == [60] * len(STEPS)
    assert told["windows"]["300"] == {"met": 60, "missed": 0, "burn": 0}
    for name in ("index", "index-b"):
        own = httpx.get(stack.role(name).url + "/shards", trust_env=False).json()["freshness"]
        assert own["latency_ms"]["count"] == 30
        assert set(told) <= set(own)
    eventually(lambda: sum(stack.status()["checks"]["probes"].values()) == 60, within_s=60)
    probes = stack.status()["checks"]["probes"]

    seen = headrace(stack, "top", "--once", "--interval", "0.1")
    assert (seen.returncode, seen.stderr) == (0, "")
    assert "of the last 60 documents" in seen.stdout
    assert "kept: 100.00 % within 1.0 h, wanted 99 %" in seen.stdout
    assert f"probes {probes['seen']} seen, 0 failed" in seen.stdout
    assert headrace(stack, "status", "--objective").returncode == 0

    stack.stop("search")
    gone = headrace(stack, "top", "--once")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert f"headrace: no gateway at {stack.url} (--url)" in gone.stderr
