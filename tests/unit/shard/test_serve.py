"""The index worker's HTTP side: answers for each shard, waits for what a query asks, says what it cannot do."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.observe.metrics import IndexMetrics
from app.shard import serve as module
from app.shard.serve import ShardServer
from app.shard.shards import Shards
from app.watchdog import Watchdog
from tests.unit.shard.parts import NOW_MS, delete, document, shard_settings, unit, watermark


class Served:
    """Two shards behind their server."""

    def __init__(self, shards: Shards, client: TestClient[Any, Any]) -> None:
        self.shards = shards
        self.client = client

    async def search(self, *partitions: int, status: int = 200, **changed: Any) -> dict[str, dict[str, Any]]:
        body = {
            "shards": list(partitions),
            "mode": "vector",
            "query": None,
            "vector": base64.b64encode(unit(1).tobytes()).decode(),
            "fingerprint": "m",
            "k": 5,
            "filter": None,
            "min_offsets": {},
            "max_staleness_ms": None,
            "timeout_ms": 2000,
        }
        async with self.client.post("/shards/search", data=orjson.dumps(body | changed)) as response:
            assert response.status == status
            told = await response.json()
            answer: dict[str, dict[str, Any]] = told["shards"] if status == 200 else told
            return answer

    async def document(self, document_id: str) -> tuple[int, dict[str, Any]]:
        async with self.client.get("/shards/document", params={"id": document_id}) as response:
            return response.status, await response.json()


@asynccontextmanager
async def served(folder: Path, watchdog: Watchdog | None = None) -> AsyncIterator[Served]:
    shards = Shards(shard_settings(folder), "epoch")
    shards.acquire({0, 1})
    shards.open[0].apply([document(0, "a", unit(1), metadata={"lang": "en"}), document(1, "b", unit(0, 1))])
    recent: deque[dict[str, Any]] = deque([{"id": "a"}])
    told = {"url": "u", "replica": "r", "partitions": 2}
    server = ShardServer(shards, recent, lambda: told, lambda: "no room", IndexMetrics(), watchdog)
    application = web.Application()
    application.add_routes(server.routes())
    try:
        async with TestClient(TestServer(application)) as client:
            yield Served(shards, client)
    finally:
        server.close()
        shards.close()


async def test_each_shard_answers_with_its_hits_and_its_freshness(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        answer = await worker.search(0, 1)
        assert [hit["id"] for hit in answer["0"]["hits"]] == ["a", "b"]
        assert (answer["0"]["applied_offset"], answer["0"]["as_of_ms"]) == (1, NOW_MS + 1)
        assert answer["1"] == {"hits": [], "applied_offset": None, "as_of_ms": None}
        hit = answer["0"]["hits"][0]
        assert (hit["shard"], hit["text"], hit["metadata"]) == (0, "a", {"lang": "en"})
        assert hit["score"] == pytest.approx(1, abs=1e-3)
        assert not {"doc", "deleted"} & set(hit)


async def test_a_shard_that_is_elsewhere_is_503_and_the_others_answer(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        answer = await worker.search(0, 7)
        assert answer["7"] == {"error": "is not owned by this worker", "status": 503}
        assert len(answer["0"]["hits"]) == 2


async def test_a_query_that_a_shard_refuses_says_so_with_its_status(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        assert (await worker.search(0, fingerprint="other"))["0"]["status"] == 503
        short = base64.b64encode(np.ones(3, np.float32).tobytes()).decode()
        answer = await worker.search(0, vector=short, fingerprint=None)
        assert (answer["0"]["status"], answer["0"]["error"]) == (400, "vector: has 3 dimensions, the index has 8")


async def test_unknown_fields_are_told_with_the_known_ones(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        answer = await worker.search(0, 1, filter={"lang": "en", "color": "red"})
        assert answer["0"]["hits"] == []
        assert (answer["0"]["unknown_fields"], answer["0"]["known_fields"]) == (["color"], ["lang"])
        assert (answer["1"]["unknown_fields"], answer["1"]["known_fields"]) == (["color", "lang"], [])
        assert "unknown_fields" not in (await worker.search(0, filter={"lang": "en"}))["0"]


async def test_a_search_waits_for_the_offset_it_asks_for(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        waiting = asyncio.create_task(worker.search(0, min_offsets={"0": 5}))
        await asyncio.to_thread(worker.shards.open[0].apply, [document(2, "c", unit(1), source_offset=4)])
        assert not waiting.done()
        await asyncio.to_thread(worker.shards.open[0].apply, [watermark(3, 5)])
        answer = (await asyncio.wait_for(waiting, 5))["0"]
        assert answer["applied_offset"] == 5
        assert {hit["id"] for hit in answer["hits"]} == {"a", "b", "c"}


async def test_a_wait_without_a_search_is_over_when_the_words_can_be_found_as_well(tmp_path: Path) -> None:
    nothing = {"mode": "none", "vector": None, "fingerprint": None, "k": 0}
    async with served(tmp_path) as worker:
        shard = worker.shards.open[0]
        waiting = asyncio.create_task(worker.search(0, min_offsets={"0": 4}, **nothing))
        await asyncio.to_thread(shard.apply, [document(2, "c", unit(1), source_offset=4)])
        answer = (await asyncio.wait_for(waiting, 5))["0"]
        assert (answer["hits"], answer["applied_offset"]) == ([], 4)
        assert shard.progress(by_words=True).through == 4
        late = (await worker.search(0, min_offsets={"0": 5}, timeout_ms=1, **nothing))["0"]
        assert (late["status"], late["applied_offset"]) == (504, 4)
        assert "error" in (await worker.search(0, k=0, status=400))


async def test_a_row_is_told_by_every_shard_deleted_or_not_with_how_far_the_shard_is(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        worker.shards.open[0].apply([delete(2, "a", version=3, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")])
        async with worker.client.get("/shards/row", params={"id": "a"}) as response:
            told = (await response.json())["shards"]
        assert told["1"] == {"row": None, "applied_offset": None, "as_of_ms": None}
        row = told["0"]["row"]
        assert (row["deleted"], row["version"], row["source_offset"], row["trace_id"]) == (True, 3, 2, "a" * 32)
        assert told["0"]["applied_offset"] == 2
        async with worker.client.get("/shards/row") as response:
            assert response.status == 400


async def test_an_offset_of_another_shard_is_not_waited_for(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        assert "hits" in (await worker.search(0, min_offsets={"1": 99}))["0"]


async def test_what_is_not_reached_in_time_is_504_with_how_far_the_shard_is(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        for demand in ({"min_offsets": {"0": 2}}, {"max_staleness_ms": 1000}):
            answer = (await worker.search(0, timeout_ms=30, **demand))["0"]
            assert (answer["status"], answer["applied_offset"]) == (504, 1)
        assert worker.shards.open[0]._listeners == []


async def test_staleness_is_measured_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as worker:
        monkeypatch.setattr(module, "now_ms", lambda: NOW_MS + 1 + 40)
        assert "hits" in (await worker.search(0, max_staleness_ms=40))["0"]
        assert (await worker.search(0, max_staleness_ms=39, timeout_ms=30))["0"]["status"] == 504


async def test_a_document_is_told_with_the_shards_that_were_looked_into(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        status, answer = await worker.document("a")
        assert (status, answer["document"]["id"], answer["deleted"], answer["shards"]) == (200, "a", False, [0, 1])
        worker.shards.open[0].apply([delete(2, "a")])
        status, answer = await worker.document("a")
        assert (status, answer["deleted"]) == (200, True)
        assert await worker.document("never") == (404, {"document": None, "shards": [0, 1]})


async def test_the_status_describes_the_worker_and_its_shards(tmp_path: Path) -> None:
    async with served(tmp_path) as worker, worker.client.get("/shards") as response:
        answer = await response.json()
        assert (answer["url"], answer["replica"], answer["partitions"], answer["recent"]) == (
            "u",
            "r",
            2,
            [{"id": "a"}],
        )
        rows = {row["partition"]: row for row in answer["shards"]}
        assert (rows[0]["documents"], rows[0]["chunks"], rows[0]["fingerprint"]) == (2, 2, "m")
        assert (rows[1]["documents"], rows[1]["state"], rows[1]["paused"]) == (0, "catching up", "no room")


async def test_a_shard_that_is_given_away_during_a_search_is_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as worker:
        shard = worker.shards.open[0]
        search = shard.search

        def gone(*arguments: Any, **options: Any) -> Any:
            worker.shards.release({0})
            return search(*arguments, **options)

        monkeypatch.setattr(shard, "search", gone)
        answer = await worker.search(0)
        assert answer["0"] == {"error": "is not owned by this worker", "status": 503}


async def test_a_shard_that_is_loading_is_503_and_the_others_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as worker:
        monkeypatch.setattr(worker.shards.open[1], "_unpublished", [])
        answer = await worker.search(0, 1)
        assert answer["1"] == {"error": "shard 1 is loading", "status": 503}
        assert len(answer["0"]["hits"]) == 2
        async with worker.client.get("/shards") as response:
            rows = {row["partition"]: row for row in (await response.json())["shards"]}
        assert rows[1]["state"] == "loading"


async def test_a_search_by_words_waits_for_the_words_and_tells_how_fresh_they_are(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        answer = (await worker.search(0, mode="keyword", query="title", min_offsets={"0": 1}))["0"]
        assert {hit["id"] for hit in answer["hits"]} == {"a", "b"}
        assert answer["applied_offset"] == 1
        assert all(hit["vector_score"] is None and hit["keyword_score"] > 0 for hit in answer["hits"])


async def test_a_hybrid_search_tells_both_scores_of_each_hit(tmp_path: Path) -> None:
    async with served(tmp_path) as worker:
        answer = (await worker.search(0, mode="hybrid", query='"title of b"', min_offsets={"0": 1}))["0"]
        hits = {hit["id"]: hit for hit in answer["hits"]}
        assert set(hits) == {"a", "b"}
        assert hits["a"]["vector_score"] == pytest.approx(1, abs=1e-3)
        assert hits["a"]["keyword_score"] is None
        assert hits["b"]["keyword_score"] > 0


async def test_a_search_that_does_not_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, hung, go_on = [0.0], threading.Event(), threading.Event()
    watchdog = Watchdog(100, lambda: now[0])

    def hangs(*_: object, **__: object) -> list[object]:
        hung.set()
        assert go_on.wait(10)
        return []

    async with served(tmp_path, watchdog) as worker:
        monkeypatch.setattr(worker.shards.open[1], "search", hangs)
        searching = asyncio.create_task(worker.search(1))
        await asyncio.to_thread(hung.wait, 10)
        now[0] = 25
        assert watchdog.trouble == "a search of shard 1 has taken 25 s so far; after 100 s the process ends"
        go_on.set()
        assert (await searching)["1"]["hits"] == []
        assert watchdog.trouble is None


async def test_a_shard_that_reads_a_compacted_log_has_not_applied_what_compaction_took_until_it_is_ready(
    tmp_path: Path,
) -> None:
    """Changes 4 and 9 are of one document, 5 of another: compaction took the record of 4."""
    log = [document(11, "other", unit(0, 1), source_offset=5), document(20, "mine", unit(1), source_offset=9)]
    async with served(tmp_path) as it:
        shard = it.shards.open[1]
        shard.ready_at = 21
        shard.apply(log[:1])
        answer = (await it.search(1, min_offsets={"1": 4}, timeout_ms=100))["1"]
        assert answer["status"] == 504
        assert (answer["applied_offset"], answer["as_of_ms"]) == (None, None)
        it.shards.release({1})
        it.shards.acquire({1})  # what was claimed is kept with the rows
        shard = it.shards.open[1]
        shard.ready_at = 21
        assert shard.progress().through == -1
        shard.apply(log[1:])
        answer = (await it.search(1, min_offsets={"1": 4}))["1"]
        assert "mine" in [hit["id"] for hit in answer["hits"]]
        assert answer["applied_offset"] == 9


async def test_a_shard_that_catches_up_claims_what_it_had_until_it_is_there(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        shard = it.shards.open[1]
        shard.apply([document(1, "a", unit(1), source_offset=1)])
        shard.ready_at = 4
        shard.apply([document(2, "b", unit(0, 1), source_offset=7)])
        assert shard.progress().through == 1
        shard.apply([watermark(3, 8)])
        assert shard.progress().through == 8


async def test_a_document_that_another_shard_of_the_worker_has_is_told_before_a_deleted_one(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        it.shards.open[0].apply([delete(2, "a")])
        it.shards.open[1].apply([document(0, "a", unit(1))])  # the producer changed its partitioner
        assert [hit["id"] for hit in (await it.search(1))["1"]["hits"]] == ["a"]
        status, told = await it.document("a")
        assert (status, told["deleted"]) == (200, False)


async def test_a_clock_of_an_embed_worker_that_is_ahead_makes_nothing_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = time.time_ns() // 1_000_000
    async with served(tmp_path) as it:
        it.shards.open[0].apply([watermark(2, 5, as_of_ms=now_ms + 3_600_000)])
        monkeypatch.setattr(module, "now_ms", lambda: now_ms + 1_800_000)  # it is dead since half an hour
        answer = (await it.search(0, max_staleness_ms=1000, timeout_ms=100))["0"]
        assert answer["status"] == 504
