"""What GET /status says of readiness and of the embed workers."""

from __future__ import annotations

from tests.unit.gateway.parts import FakeWorker, gateway

TOLD = {"worker": "here:8082", "hits": 3}


async def test_the_status_shows_the_embed_workers_that_announced_themselves() -> None:
    async with gateway(FakeWorker(1, 0)) as served:
        assert (await served.get("/status"))["embed_workers"] == []
        served.registry.embed_workers = {"here:8082": TOLD}
        assert (await served.get("/status"))["embed_workers"] == [TOLD]
        served.registry.embed_workers = None  # Redis is not there: nobody knows
        assert (await served.get("/status"))["embed_workers"] is None


async def test_the_status_says_whether_every_shard_can_be_searched_and_why_not() -> None:
    async with gateway(FakeWorker(2, 0)) as served:
        answer = await served.get("/status")
        assert (answer["ready"], answer["reason"]) == (False, "shard 1 missing")
    async with gateway(FakeWorker(1, 0)) as served:
        answer = await served.get("/status")
        assert (answer["ready"], answer["reason"]) == (True, None)
