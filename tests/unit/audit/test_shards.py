"""What a shard says of its rows over HTTP, and what is said where it cannot be asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.audit.shards import ReplicaShard, find_replicas
from app.gateway.directory import Directory
from app.observe.metrics import IndexMetrics
from app.shard.serve import ShardServer
from app.shard.shards import Shards
from schemas.errors import NotServing, WaitTimeout
from tests.unit.shard.parts import EPOCH, delete, document, shard_settings, unit


class Nobody:
    """A registry without anybody in it."""

    def urls(self) -> list[str]:
        return []


@asynccontextmanager
async def asked(folder: Path, epoch: str = EPOCH) -> AsyncIterator[tuple[Directory, aiohttp.ClientSession, Shards]]:
    """A worker of replica r with the shards 0 and 1 of two, and who asks it."""
    shards = Shards(shard_settings(folder), epoch)
    shards.acquire({0, 1})
    server = ShardServer(shards, [], lambda: {"replica": "r", "partitions": 2}, lambda: None, IndexMetrics())  # type: ignore[arg-type]
    application = web.Application()
    application.add_routes(server.routes())
    async with TestServer(application) as http, aiohttp.ClientSession() as session:
        directory = Directory("c", Nobody(), [str(http.make_url("")).rstrip("/")], session)  # type: ignore[arg-type]
        await directory.refresh()
        yield directory, session, shards
    server.close()
    shards.close()


async def test_rows_come_in_pages_by_id_with_the_offset_of_the_state_they_are_of(tmp_path: Path) -> None:
    async with asked(tmp_path) as (directory, session, shards):
        ids = sorted(f"документ {number}" for number in range(1005))
        shards.open[0].apply([document(offset, id, unit(1)) for offset, id in enumerate(ids)])
        shards.open[0].apply([delete(1005, ids[0])])
        shard = ReplicaShard(directory, session, EPOCH, "r", 0, 1)

        pages = [page async for page in shard.pages(1006)]

        assert [len(page.rows) for page in pages] == [1000, 5]
        rows = [row for page in pages for row in page.rows]
        assert [row.id for row in rows] == ids
        assert [(row.deleted, row.source_offset, row.chunks) for row in rows[:2]] == [(True, 1005, 0), (False, 1, 1)]
        assert {(page.next_offset, page.dtype) for page in pages} == {(1006, "float16")}


async def test_some_ids_can_be_asked_for_and_those_never_seen_are_left_out(tmp_path: Path) -> None:
    async with asked(tmp_path) as (directory, session, shards):
        shards.open[1].apply([document(0, 'a "quoted" id', unit(1)), document(1, "b", [unit(1), unit(0, 1)])])
        shard = ReplicaShard(directory, session, EPOCH, "r", 1, 1)

        answers = [(list(ids), held) async for ids, held in shard.rows(["b", "c", 'a "quoted" id'], 2)]

        ((ids, held),) = answers
        assert ids == ["b", "c", 'a "quoted" id']
        assert [row.id for row in held.rows] == ['a "quoted" id', "b"]
        whole = await shard.whole("b")
        assert whole.rows == [held.rows[1]]
        assert whole.vectors is not None
        assert len(whole.vectors) == 2 * 8 * 2


async def test_an_id_with_a_nul_in_it_is_found_however_it_is_asked_for(tmp_path: Path) -> None:
    async with asked(tmp_path) as (directory, session, shards):
        ids = ["a", "a\0", "a\0b", "\0"]
        shards.open[0].apply([document(offset, id, unit(1)) for offset, id in enumerate(ids)])
        shard = ReplicaShard(directory, session, EPOCH, "r", 0, 1)

        some = [row.id async for _, held in shard.rows([*ids, "a\0c"], 4) for row in held.rows]
        all_of_them = [row.id async for page in shard.pages(4) for row in page.rows]

        assert sorted(some) == sorted(all_of_them) == sorted(ids)
        assert [row.id for row in (await shard.whole("a\0b")).rows] == ["a\0b"]
        assert shards.open[0].rows_of([]).rows == []


async def test_a_shard_that_is_behind_is_named_with_how_far_it_is(tmp_path: Path) -> None:
    async with asked(tmp_path) as (directory, session, shards):
        shards.open[0].apply([document(0, "a", unit(1))])
        shard = ReplicaShard(directory, session, EPOCH, "r", 0, 0.3)
        await shard.reach(1)
        with pytest.raises(WaitTimeout, match=r"shard 0 of replica r is behind: .* offset 1, not yet up to 5"):
            await shard.reach(5)


async def test_a_shard_that_nobody_has_and_one_of_another_life_are_named(tmp_path: Path) -> None:
    async with asked(tmp_path, "another") as (directory, session, shards):
        with pytest.raises(NotServing, match="another life of the topics"):
            await ReplicaShard(directory, session, EPOCH, "r", 0, 0.3).head()
        shards.release({1})
        with pytest.raises(NotServing, match="shard 1 of replica r"):
            await ReplicaShard(directory, session, "another", "r", 1, 0.3).head()
        with pytest.raises(NotServing, match="shard 0 of replica s: no index worker has it"):
            await ReplicaShard(directory, session, "another", "s", 0, 0.3).head()


async def test_a_replica_that_is_silent_or_not_there_is_never_left_out(tmp_path: Path) -> None:
    async with asked(tmp_path) as (directory, session, _):
        assert await find_replicas(directory, []) == ["r"]
        with pytest.raises(NotServing, match="no index worker of replica s answers, only of r"):
            await find_replicas(directory, ["r", "s"])
        silent = Directory("c", Nobody(), ["http://127.0.0.1:9"], session)  # type: ignore[arg-type]
        with pytest.raises(NotServing, match=r"http://127\.0\.0\.1:9 does not answer"):
            await find_replicas(silent, [])
        nobody = Directory("c", Nobody(), [], session)  # type: ignore[arg-type]
        with pytest.raises(NotServing, match="no index worker is known"):
            await find_replicas(nobody, [])


@pytest.mark.parametrize("query", ["limit=many", "after=", "limit=-1"])
async def test_a_question_that_is_none_is_refused(tmp_path: Path, query: str) -> None:
    async with asked(tmp_path) as (directory, session, _):
        (url,) = directory.workers
        async with session.get(f"{url}/shards/0/documents?{query}") as response:
            assert response.status == 400
        async with session.post(f"{url}/shards/0/documents", data=b"[]") as response:
            assert response.status == 400
        async with session.get(f"{url}/shards/7/documents") as response:
            assert response.status == 503
