"""POST /wait: one replica or all of them, who is behind and how far, and parameters of searches in the query string."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from schemas.waiting import WaitResponse
from tests.unit.gateway.parts import IN_TIME_S, FakeWorker, Served, gateway, message, said, within

LATE = {"error": "did not reach min_offsets or max_staleness_ms in time", "status": 504, "applied_offset": 4}


async def wait(served: Served, status: int = 200, **body: Any) -> dict[str, Any]:
    async with served.client.post("/wait", data=orjson.dumps(body)) as response:
        answer: dict[str, Any] = orjson.loads(await response.read())
        assert response.status == status, answer
    return answer


def replicas(*names: str) -> list[FakeWorker]:
    return [FakeWorker(2, 0, 1, replica=name) for name in names]


async def test_only_the_shards_that_are_named_are_asked_and_nothing_is_searched_for() -> None:
    worker = FakeWorker(2, 0, 1)
    async with gateway(worker) as served:
        answer = await wait(served, min_offsets={"1": 7}, timeout_ms=77)
        (body,) = worker.asked
        assert body.pop("timeout_ms") <= 77
        assert (body["mode"], body["shards"], body["min_offsets"], body["k"]) == ("none", [1], {"1": 7}, 0)
        assert set(answer["freshness"]["shards"]) == {"1"}
        assert answer["replicas"]["1"]["0"]["worker"] == worker.url
        WaitResponse.model_validate(answer, strict=True)


async def test_all_replicas_are_waited_for_and_the_answer_is_as_far_as_the_last_of_them() -> None:
    one, two = replicas("a", "b")
    one.shards[0], two.shards[0] = said(offset=9), said(offset=8)
    async with gateway(one, two) as served:
        answer = await wait(served, min_offsets={"0": 8}, replicas="all")
        assert answer["freshness"]["shards"]["0"]["applied_offset"] == 8
        assert {name: told["applied_offset"] for name, told in answer["replicas"]["0"].items()} == {"a": 9, "b": 8}


async def test_one_replica_is_enough_and_one_that_hangs_holds_nothing_up() -> None:
    one, two = replicas("a", "b")
    one.answers = "never"
    async with gateway(one, two) as served:
        answer = await asyncio.wait_for(wait(served, min_offsets={"0": 8}, timeout_ms=60_000), 20)
        assert list(answer["replicas"]["0"]) == ["b"]


async def test_a_replica_that_is_behind_is_named_with_how_far_it_is() -> None:
    one, two = replicas("a", "b")
    two.shards[0] = LATE
    async with gateway(one, two) as served:
        told = message(await wait(served, 504, min_offsets={"0": 8}, replicas="all"), 504)
        assert told == (
            f"shard 0 has not applied offset 8 in replica b: {two.url} did not get there in time: it is at offset 4"
        )
        assert (await wait(served, min_offsets={"0": 8}))["replicas"]["0"].keys() == {"a"}


async def test_a_replica_that_does_not_answer_is_named_with_where_it_was_heard_of_last() -> None:
    one, two = replicas("a", "b")
    async with gateway(one, two) as served:
        two.answers = "never"
        told = message(await wait(served, 504, min_offsets={"0": 8}, replicas="all", timeout_ms=50), 504)
        assert told.startswith(f"shard 0 has not applied offset 8 in replica b: {two.url} cannot say how far it is")
        assert told.endswith("last heard of at offset 9")


async def test_a_worker_that_fails_is_asked_again_until_it_answers() -> None:
    one, two = replicas("a", "b")
    async with gateway(one, two) as served:
        two.answers = 500
        waiting = asyncio.create_task(wait(served, min_offsets={"0": 8}, replicas="all", timeout_ms=60_000))
        while not two.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        two.answers = "well"
        assert set((await asyncio.wait_for(waiting, 20))["replicas"]["0"]) == {"a", "b"}
        assert len(one.asked) == 1


async def test_a_shard_that_moves_between_the_workers_of_a_replica_is_waited_for() -> None:
    one, two, other = FakeWorker(2, 0, 1, replica="a"), FakeWorker(2, 0, replica="b"), FakeWorker(2, 1, replica="b")
    async with gateway(one, two, other) as served:
        del two.shards[0]
        await served.directory.refresh()
        told = message(await wait(served, 504, min_offsets={"0": 8}, replicas="all", timeout_ms=1), 504)
        assert told == "shard 0 has not applied offset 8 in replica b: no index worker has it at present"
        other.shards[0] = said()
        answer = await wait(served, min_offsets={"0": 8}, replicas="all")
        assert {name: told["worker"] for name, told in answer["replicas"]["0"].items()} == {
            "a": one.url,
            "b": other.url,
        }


async def test_every_worker_that_answers_for_a_replica_is_waited_for() -> None:
    old, new = FakeWorker(1, 0), FakeWorker(1, 0)
    old.states[0] = "catching up"  # the other one is asked first
    async with gateway(old, new) as served:
        old.shards[0] = LATE
        told = message(await wait(served, 504, min_offsets={"0": 8}, replicas="all"), 504)
        assert told.startswith(f"shard 0 has not applied offset 8 in replica 0: {old.url} did not get there in time")
        assert (await wait(served, min_offsets={"0": 8}))["replicas"]["0"]["0"]["worker"] == new.url

        old.shards[0], new.shards[0] = said(offset=8), said(offset=9)
        answer = await wait(served, min_offsets={"0": 8}, replicas="all")
        assert answer["replicas"]["0"]["0"]["worker"] == old.url
        assert answer["freshness"]["shards"]["0"]["applied_offset"] == 8

        old.shards[0] = LATE
        old.answers = "hangs"  # whoever has the shard by now is enough
        await served.directory.refresh()
        assert (await wait(served, min_offsets={"0": 8}, replicas="all"))["replicas"]["0"]["0"]["worker"] == new.url


async def test_a_replica_that_is_silent_is_named_in_time_whatever_a_poll_of_it_takes() -> None:
    one, two = replicas("a", "b")
    async with gateway(one, two) as served:
        two.answers = "hangs"
        await served.directory.refresh()
        with within(IN_TIME_S):
            answer = await wait(served, 504, min_offsets={"0": 8}, replicas="all", timeout_ms=200)
        assert message(answer, 504) == (
            f"shard 0 has not applied offset 8 in replica b: {two.url} cannot say how far it is: unreachable; "
            "last heard of at offset 9"
        )
        assert (two.asked, list((await wait(served, min_offsets={"0": 8}))["replicas"]["0"])) == ([], ["a"])
        await served.directory.refresh()  # the poll under way ends


async def test_a_worker_that_was_announced_and_never_answered_is_waited_for_where_all_are() -> None:
    one, two = replicas("a", "b")
    two.describes = "nothing that an index worker says"
    async with gateway(one, two) as served:
        told = message(await wait(served, 504, min_offsets={"0": 8}, replicas="all", timeout_ms=200), 504)
        assert told == f"shard 0 has not applied offset 8: {two.url} has never answered"
        assert list((await wait(served, min_offsets={"0": 8}))["replicas"]["0"]) == ["a"]
        two.describes = None
        assert set((await wait(served, min_offsets={"0": 8}, replicas="all"))["replicas"]["0"]) == {"a", "b"}


async def test_of_a_partition_that_is_named_twice_the_higher_offset_counts() -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker) as served:
        await wait(served, min_offsets={"00": 8, "0": 3})
        assert worker.asked[0]["min_offsets"] == {"0": 8}


async def test_what_cannot_be_waited_for_is_refused() -> None:
    async with gateway(FakeWorker(2, 0)) as served:
        assert "there is no partition 2" in message(await wait(served, 400, min_offsets={"2": 1}), 400)
        assert "min_offsets" in message(await wait(served, 400, min_offsets={}), 400)
        assert "replicas" in message(await wait(served, 400, min_offsets={"0": 1}, replicas="most"), 400)
        told = message(await wait(served, 504, min_offsets={"1": 1}, timeout_ms=1), 504)
        assert told == "shard 1 has not applied offset 1: no index worker has it at present"


# --- POST /search?max_staleness_ms=…&timeout_ms=…


async def test_a_search_takes_what_it_waits_for_from_the_query_string_as_well() -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker) as served:
        path = "/search?max_staleness_ms=500&timeout_ms=77"
        async with served.client.post(path, data=orjson.dumps({"query": "x"})) as response:
            assert response.status == 200
        assert (worker.asked[0]["max_staleness_ms"], worker.asked[0]["timeout_ms"]) == (500, 77)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/search?timeout_ms=5", "timeout_ms: is given twice"),
        ("/search?max_staleness_ms=1&max_staleness_ms=2", "max_staleness_ms: is given twice"),
        ("/search?max_staleness_ms=soon", "max_staleness_ms"),
        ("/search?max_staleness_ms=-1", "max_staleness_ms"),
        ("/search?max_staleness=1", "max_staleness: Extra inputs"),
    ],
)
async def test_a_wrong_query_string_is_refused(path: str, named: str) -> None:
    async with gateway(FakeWorker(1, 0)) as served:
        async with served.client.post(path, data=b'{"query": "x", "timeout_ms": 5}') as response:
            answer = orjson.loads(await response.read())
        assert message(answer, response.status).startswith(named)
        assert response.status == 400
