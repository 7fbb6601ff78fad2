"""GET /stats, and what /status and /readyz say of a shard that is paused or loading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.gateway.stats import Memory, Rebuild, ShardStats, Snapshot, Stats, Totals
from tests.unit.gateway.parts import TOLD, FakeWorker, gateway, now_ms

DOCS = Path(__file__).parents[3] / "docs"


def told(worker: FakeWorker, partition: int, **changed: Any) -> None:
    worker.told[partition] = TOLD | changed


async def test_the_stats_tell_everything_of_every_shard() -> None:
    worker = FakeWorker(1, 0)
    told(worker, 0, snapshot_ms=now_ms() - 90_000, rebuilding=True, rebuild_progress=0.25)
    async with gateway(worker) as served:
        answer = await served.get("/stats")
        Stats.model_validate(answer, strict=True)
        (row,) = answer["shards"]
        age_s = row["snapshot"].pop("age_s")
        assert 90 <= age_s < 95
        assert row == {
            "shard": 0,
            "replica": "0",
            "worker": worker.url,
            "state": "ready",
            "paused": None,
            "documents": 100,
            "chunks": 120,
            "buffered_chunks": 7,
            "graph_dead_ratio": 0.1,
            "recall_at_10": 0.98,
            "recall_samples": 40,
            "ef_search": 64,
            "memory": {"graph": 1000, "rows": 200, "buffer": 30, "keyword": 4, "total": 1234},
            "disk_bytes": 5000,
            "snapshot": {"chunks": 110},
            "rebuild": {"running": True, "progress": 0.25, "last_reason": "dead share", "last_seconds": 1.5},
        }


async def test_the_totals_count_a_document_once_and_bytes_as_often_as_they_are_taken() -> None:
    one, two = FakeWorker(2, 0, 1, replica="a"), FakeWorker(2, 0, replica="b")
    told(one, 0)
    told(one, 1, documents=11, chunks=12, buffered=0)
    told(two, 0)
    async with gateway(one, two) as served:
        totals = (await served.get("/stats"))["totals"]
        assert (totals["documents"], totals["chunks"], totals["buffered_chunks"]) == (111, 132, 7)
        assert totals["memory"] == {"graph": 3000, "rows": 600, "buffer": 90, "keyword": 12, "total": 3702}
        assert totals["disk_bytes"] == 15_000


async def test_the_rows_are_in_the_order_of_shard_and_replica_with_the_missing_ones() -> None:
    one, two = FakeWorker(3, 0, 1, replica="b"), FakeWorker(3, 0, replica="a")
    async with gateway(one, two) as served:
        await two.stop()
        await served.directory.refresh()
        rows = (await served.get("/stats"))["shards"]
        assert [(row["shard"], row["replica"], row["state"]) for row in rows] == [
            (0, "a", "unreachable"),
            (0, "b", "ready"),
            (1, "b", "ready"),
            (2, None, "missing"),
        ]
        assert rows[-1]["worker"] is None
        assert rows[-1]["memory"] == {"graph": None, "rows": None, "buffer": None, "keyword": None, "total": None}


async def test_a_worker_that_does_not_tell_makes_nulls_and_no_error() -> None:
    silent, full = FakeWorker(2, 0), FakeWorker(2, 1)
    told(full, 1, memory_bytes={"graph": 1, "rows": 2, "buffer": None, "keyword": 4}, recall_at_10=None)
    async with gateway(silent, full) as served:
        answer = await served.get("/stats")
        Stats.model_validate(answer, strict=True)
        old, new = answer["shards"]
        assert (old["recall_at_10"], old["recall_samples"], old["snapshot"], old["disk_bytes"]) == (None, 0, None, None)
        assert old["rebuild"] == {"running": None, "progress": None, "last_reason": None, "last_seconds": None}
        assert (new["recall_at_10"], new["memory"]["total"]) == (None, None)
        assert answer["totals"]["buffered_chunks"] is None  # a sum without one of them would pass for the whole
        assert answer["totals"]["chunks"] == 121


async def test_without_any_worker_the_stats_are_empty() -> None:
    async with gateway() as served:
        answer = await served.get("/stats")
        assert (answer["shards"], answer["totals"]["documents"], answer["totals"]["memory"]["total"]) == ([], 0, 0)


async def test_a_snapshot_from_a_clock_that_is_ahead_has_no_negative_age() -> None:
    worker = FakeWorker(1, 0)
    told(worker, 0, snapshot_ms=now_ms() + 60_000, snapshot_chunks=None)
    async with gateway(worker) as served:
        (row,) = (await served.get("/stats"))["shards"]
        assert row["snapshot"] == {"age_s": 0.0, "chunks": None}


async def test_a_paused_shard_is_ready_to_be_searched_and_says_why_it_is_paused() -> None:
    worker = FakeWorker(1, 0)
    told(worker, 0, paused="the disk is full")
    async with gateway(worker) as served:
        ready = await served.get("/readyz")
        assert (ready["ready"], ready["reason"]) == (True, None)
        assert ready["services"] == {"redis": "ok", "shard 0 of replica 0": "paused: the disk is full"}
        (row,) = (await served.get("/status"))["shards"]
        assert (row["state"], row["paused"], row["reason"]) == ("ready", "the disk is full", "paused: the disk is full")
        assert (await served.get("/stats"))["shards"][0]["paused"] == "the disk is full"
        await worker.stop()
        await served.directory.refresh()
        ready = await served.get("/readyz", 503)
        assert (ready["reason"], ready["services"]) == ("shard 0 unreachable", {"redis": "ok"})


async def test_a_loading_shard_says_what_it_is_busy_with() -> None:
    worker = FakeWorker(3, 0, 1, 2)
    worker.states = dict.fromkeys(range(3), "loading")
    told(worker, 0, rebuilding=True, rebuild_progress=0.4)
    worker.states[1] = "catching up"
    told(worker, 1, paused="no memory left")
    async with gateway(worker) as served:
        reason = (await served.get("/readyz", 503))["reason"]
        assert reason.split(", shard ") == [
            "shard 0 loading (building the graph, 40% done)",
            "1 catching up (paused: no memory left)",
            "2 loading",
        ]
        rows = (await served.get("/status"))["shards"]
        assert [row["reason"] for row in rows] == ["building the graph, 40% done", "paused: no memory left", None]


def test_the_page_of_the_api_names_every_field_of_the_stats() -> None:
    text = (DOCS / "search-api.md").read_text()
    models: tuple[type[BaseModel], ...] = (Stats, Totals, ShardStats, Memory, Snapshot, Rebuild)
    fields = {name for model in models for name in model.model_fields}
    assert [name for name in sorted(fields) if not re.search(rf'[`".]{name}[`"]', text)] == []
