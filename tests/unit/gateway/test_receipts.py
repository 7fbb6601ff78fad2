"""GET /documents/{id}/receipt: what every replica holds, what is missing, and when it was everywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from yarl import URL

from app.cli.main import headrace
from app.gateway.directory import COPY_MEMORY_S
from producers import HeadraceClient
from schemas.receipt import Receipt
from tests.unit.gateway.parts import FakeWorker, gateway, hit, message, now_ms, said, stored


def row(offset: int, *, deleted: bool = True, at_ms: int = 2000, **changed: Any) -> dict[str, Any]:
    given = {
        "deleted": deleted,
        "version": None,
        "source_offset": offset,
        "event_time_ms": 1000,
        "indexed_time_ms": at_ms,
        "trace_id": "a" * 32,
    }
    return given | changed


def pair() -> tuple[FakeWorker, FakeWorker]:
    return FakeWorker(1, 0, replica="a"), FakeWorker(1, 0, replica="b")


async def test_a_delete_that_every_replica_has_is_proven_with_the_time_of_the_last() -> None:
    one, two = pair()
    one.rows["x"], two.rows["x"] = {0: row(8, at_ms=2000)}, {0: row(8, at_ms=2500)}
    async with gateway(one, two) as served:
        answer = await served.get("/documents/x/receipt")
    Receipt.model_validate(answer, strict=True)
    assert (answer["state"], answer["source"], answer["version"]) == ("deleted", {"partition": 0, "offset": 8}, None)
    assert (answer["everywhere_at"], answer["took_ms"]) == ("1970-01-01T00:00:02.500Z", 1500)
    assert (answer["missing_replicas"], answer["trace_id"]) == ([], "a" * 32)
    assert answer["replicas"]["b"] == {
        "state": "deleted",
        "has_it": True,
        "source_offset": 8,
        "applied_offset": 9,
        "indexed_time": "1970-01-01T00:00:02.500Z",
        "as_of": answer["replicas"]["b"]["as_of"],
        "worker": two.url,
    }


async def test_a_replica_that_still_has_the_document_is_told_and_nothing_is_everywhere() -> None:
    one, two = pair()
    one.rows["x"], two.rows["x"] = {0: row(8)}, {0: row(5, deleted=False)}
    async with gateway(one, two) as served:
        answer = await served.get("/documents/x/receipt")
    assert (answer["state"], answer["everywhere_at"], answer["took_ms"]) == ("deleted", None, None)
    assert {name: (told["state"], told["has_it"]) for name, told in answer["replicas"].items()} == {
        "a": ("deleted", True),
        "b": ("indexed", False),
    }


async def test_a_replica_without_a_row_has_the_delete_once_it_has_applied_its_offset() -> None:
    one, two = pair()
    one.rows["x"], two.rows["y"] = {0: row(9)}, {}
    async with gateway(one, two) as served:
        assert (await served.get("/documents/x/receipt"))["everywhere_at"] is not None
        two.shards[0]["applied_offset"] = 8
        answer = await served.get("/documents/x/receipt")
        assert answer["replicas"]["b"]["state"] == "unknown"
        assert answer["everywhere_at"] is None
        one.rows["x"] = {0: row(7, deleted=False)}  # applied, and not there: not a copy of what lives
        assert (await served.get("/documents/x/receipt"))["everywhere_at"] is None


async def test_the_version_counts_before_the_offset() -> None:
    one, two = pair()
    one.rows["x"], two.rows["x"] = {0: row(8, version=4)}, {0: row(7, version=5, deleted=False)}
    async with gateway(one, two) as served:
        answer = await served.get("/documents/x/receipt")
    assert (answer["state"], answer["version"], answer["source"]["offset"]) == ("indexed", 5, 7)


async def test_a_document_that_lives_in_another_partition_is_not_deleted() -> None:
    """Its producer has changed the partitioner."""
    worker = FakeWorker(2, 0, 1)
    worker.rows["x"] = {0: row(8, event_time_ms=9000), 1: row(3, deleted=False)}
    async with gateway(worker) as served:
        answer = await served.get("/documents/x/receipt")
    assert (answer["state"], answer["source"]["partition"]) == ("indexed", 1)


async def test_a_replica_that_is_silent_is_missing_also_when_it_is_no_longer_registered() -> None:
    one, two = pair()
    one.rows["x"], two.rows["x"] = {0: row(8)}, {0: row(8)}
    async with gateway(one, two) as served:
        two.answers = 500
        answer = await served.get("/documents/x/receipt")
        assert answer["everywhere_at"] is None
        (missing,) = answer["missing_replicas"]
        assert (missing["replica"], missing["worker"]) == ("b", two.url)

        await two.stop()
        served.registry.known = [one.url]
        await served.directory.refresh()
        assert list(served.directory.workers) == [one.url]
        (missing,) = (await served.get("/documents/x/receipt"))["missing_replicas"]
        assert (missing["replica"], missing["reason"]) == (
            "b",
            "shard 0 was there in the last ten minutes, and is not now",
        )

        now = served.directory._clock()
        served.directory._clock = lambda: now + COPY_MEMORY_S + 1
        await served.directory.refresh()
        assert (await served.get("/documents/x/receipt"))["everywhere_at"] is not None


async def test_a_worker_that_never_answered_may_have_it() -> None:
    one, two = pair()
    one.rows["x"] = {0: row(8)}
    two.describes, two.answers = ["nothing"], 500
    async with gateway(one, two) as served:
        (missing,) = (await served.get("/documents/x/receipt"))["missing_replicas"]
        assert (missing["replica"], missing["worker"]) == (None, two.url)
        assert missing["reason"].startswith("has never answered")


async def test_a_receipt_counts_every_worker_that_answers_for_a_replica() -> None:
    """One lost the shard and does not know it; the other is further, and still catching up."""
    old, new = FakeWorker(1, 0), FakeWorker(1, 0)
    old.rows["x"], old.shards[0] = {0: row(5, deleted=False)}, said(hit("x", 0.9), offset=5, as_of_ms=now_ms() - 60_000)
    new.rows["x"], new.shards[0], new.states[0] = {0: row(8)}, said(offset=8), "catching up"
    async with gateway(old, new) as served:
        assert [one["id"] for one in (await served.search())["hits"]] == ["x"]
        answer = await served.get("/documents/x/receipt")
        told = answer["replicas"]["0"]
        assert (answer["state"], answer["everywhere_at"], answer["missing_replicas"]) == ("deleted", None, [])
        assert (told["state"], told["has_it"], told["worker"]) == ("indexed", False, old.url)

        old.shards.clear()
        answer = await served.get("/documents/x/receipt")
        assert (answer["replicas"]["0"]["worker"], answer["took_ms"]) == (new.url, 1000)


async def test_a_worker_that_fell_silent_with_a_shard_counts_until_it_is_forgotten() -> None:
    """Another one of its replica has the shard by now, but it may come back with what it had."""
    old, new = FakeWorker(1, 0), FakeWorker(1, 0)
    old.rows["x"], new.rows["x"] = {0: row(5, deleted=False)}, {0: row(8)}
    async with gateway(old, new) as served:
        old.answers = "hangs"
        await served.directory.refresh()
        answer = await served.get("/documents/x/receipt")
        assert (answer["everywhere_at"], answer["replicas"]["0"]["has_it"]) == (None, True)
        assert answer["missing_replicas"] == [{"replica": "0", "worker": old.url, "reason": "unreachable"}]
        served.registry.known = [new.url]
        await served.directory.refresh()
        assert (await served.get("/documents/x/receipt"))["everywhere_at"] is not None


async def test_an_id_that_nobody_ever_had_is_404_and_503_while_that_cannot_be_told() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    async with gateway(one, two) as served:
        assert "has ever held a document 'x'" in message(await served.get("/documents/x/receipt", 404), 404)
        two.answers = 500
        told = message(await served.get("/documents/x/receipt", 503), 503)
        assert told.startswith("cannot tell: nobody answers for shard 1")


@pytest.mark.parametrize("document_id", [".", "..", "a/../b", "a//b", "./receipt", "a b?%2E#ü"])
async def test_the_client_and_the_command_get_the_document_and_the_receipt_of_any_id(document_id: str) -> None:
    worker = FakeWorker(1, 0)
    worker.documents[document_id] = stored(document_id)
    worker.rows[document_id] = {0: row(3)}
    async with gateway(worker) as served:
        url = str(served.client.make_url("/"))
        with HeadraceClient(url) as client:
            document = await asyncio.to_thread(client.document, document_id)
            receipt = await asyncio.to_thread(client.receipt, document_id)
            assert await asyncio.to_thread(client.receipt, "never") is None
        command = ["receipt", document_id, "--url", url, "--json"]
        printed = await asyncio.to_thread(CliRunner().invoke, headrace, command, standalone_mode=False)
    assert (document or {})["id"] == document_id
    assert (receipt or {})["source"] == {"partition": 0, "offset": 3}
    assert (printed.return_value, orjson.loads(printed.output)["id"]) == (0, document_id)


async def test_a_deleted_document_of_dots_names_the_path_of_its_receipt() -> None:
    worker = FakeWorker(1, 0)
    worker.documents[".."] = stored("..", deleted=True, text=None)
    async with gateway(worker) as served:
        told = message(await served.get(URL("/documents/%2E%2E", encoded=True), 404), 404)
        assert told.endswith("GET /documents/%2E%2E/receipt")


async def test_an_id_that_ends_like_the_path_is_asked_for_with_its_slash_encoded() -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker) as served:
        await served.get("/documents/a%2Freceipt", 404)
        assert worker.document_ids == ["a/receipt"]


# --- the metric


def deletes(*items: tuple[int, int, bool], life: str = "l", first: int = 0) -> dict[str, Any]:
    """(source offset, when it became invisible, whether it was live) of deletes that were sent at 1000."""
    rows = [
        {"shard": 0, "source_offset": offset, "sent_ms": 1000, "invisible_ms": at_ms, "live": live}
        for offset, at_ms, live in items
    ]
    return {"life": life, "first": first, "items": rows}


async def test_a_delete_is_measured_once_every_replica_has_told_of_it() -> None:
    one, two = pair()
    async with gateway(one, two) as served:
        sample = served.metrics.registry.get_sample_value
        assert (one.deletes_after, two.deletes_after) == ("now", "now")
        one.deletes = deletes((5, 1200, True))
        await served.directory.refresh()
        assert sample("headrace_delete_everywhere_seconds_count") == 0

        one.deletes, two.deletes = deletes(first=1), deletes((5, 4000, False), life="m")
        await served.directory.refresh()
        assert (one.deletes_after, two.deletes_after) == ("l:1", ":0")
        assert sample("headrace_delete_everywhere_seconds_count") == 1
        assert sample("headrace_delete_everywhere_seconds_sum") == 3


async def test_deletes_that_nobody_saw_or_that_a_replica_never_told_of_are_counted() -> None:
    one, two = pair()
    async with gateway(one, two) as served:
        watch = served.directory._deletes
        assert watch is not None

        def missed(reason: str) -> float | None:
            return served.metrics.registry.get_sample_value(
                "headrace_delete_everywhere_missed_total", {"reason": reason}
            )

        one.deletes = deletes((5, 1200, True), (6, 1200, False))
        await served.directory.refresh()
        one.deletes = deletes(first=7)
        await served.directory.refresh()
        assert (missed("unheard"), missed("unconfirmed")) == (5, None)
        now = watch._clock()
        watch._clock = lambda: now + 601
        await served.directory.refresh()
        assert (missed("unheard"), missed("unconfirmed")) == (5, 1)
        assert served.metrics.registry.get_sample_value("headrace_delete_everywhere_seconds_count") == 0
