"""`headrace audit` on real Kafka and Redis: silent where nothing is wrong; what is made wrong is found and mended."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import orjson
import pytest
import redis as redis_client

from app.embed.applied import AppliedState, RedisApplied
from app.kafka.producer import Record, RecordProducer
from app.kafka.topics import collection_topics
from app.local.kafka import LocalKafka
from app.local.process import headrace_command
from app.local.redis import LocalRedis
from app.local.role import role_environment
from app.order import DocumentOrder
from app.redis_link import RedisLink
from schemas.headers import WATERMARK_KEY, RecordHeaders
from tests.services_local import eventually
from tests.stack import Stack, unique

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> Iterator[Stack]:
    """One shard, so that every document is in the same file."""
    folder = tmp_path_factory.mktemp("audit")
    with Stack(folder, shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1) as made:
        made.create_topics()
        made.start()
        yield made


def audit(stack: Stack, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report."""
    settings = {name: getattr(stack.settings, name) for name in ("brokers", "collection", "redis_url")}
    done = subprocess.run(
        [*headrace_command("audit"), "--json", "--timeout", "20", *arguments],
        cwd=stack.folder,
        env=role_environment(settings),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, orjson.loads(done.stdout)


def kinds(report: dict[str, Any]) -> dict[str, str]:
    """id → kind of what was found."""
    return {example["id"]: example["kind"] for example in report["examples"]}


@contextmanager
def shard_file(stack: Stack) -> Iterator[sqlite3.Connection]:
    """The file of the shard, while its worker is stopped."""
    stack.stop("index")
    (path,) = (stack.folder / "data").rglob("shard-0.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection
    stack.start("index")


def published(stack: Stack, *names: str) -> list[str]:
    """Documents that can be found, by ids that begin so."""
    ids = [unique(name) for name in names]
    stack.search("text", stack.publish_all({id: f"The text of {id}." for id in ids}))
    return ids


def remember(stack: Stack, id: str, source_offset: int) -> None:
    """Have Redis claim that a change of a document was applied."""
    settings = stack.settings
    link = RedisLink(settings)
    applied = RedisApplied(link, settings.collection, collection_topics(settings).epoch, 1)
    state = AppliedState(DocumentOrder(None, source_offset), False, bytes(16), bytes(8))
    with closing(redis_client.Redis.from_url(settings.redis_url)) as client:
        client.set(applied.documents_prefix + b"0:" + id.encode(), state.encode())
    link.close()


def forge_through(stack: Stack, through: int) -> None:
    """A watermark that claims more than is true: as if the embed worker had skipped what is before it."""
    settings = stack.settings
    epoch, now_ms = collection_topics(settings).epoch, time.time_ns() // 1_000_000
    headers = RecordHeaders("watermark", 0, through, through, now_ms, epoch, now_ms)
    producer = RecordProducer(settings, "forger")
    producer.deliver([Record(settings.vectors_topic, WATERMARK_KEY, b"", 0, headers.encode())]).result(10)
    producer.close()


def edit(stack: Stack, ids: dict[str, str]) -> None:
    """What must never happen: rows of the file change without a record."""
    with shard_file(stack) as file:

        def sql(statement: str, *names: str) -> None:
            file.execute(statement, [ids[name] for name in names])

        doc = "(SELECT doc FROM documents WHERE id = ?)"
        sql(f"DELETE FROM chunks WHERE doc = {doc}", "missing")
        sql("DELETE FROM documents WHERE id = ?", "missing")
        sql("UPDATE documents SET text = 'An old text.', source_offset = 0 WHERE id = ?", "stale")
        sql("UPDATE documents SET deleted = 0, text = 'It is back.', source_offset = 1 WHERE id = ?", "ghost")
        same = "deleted, version, source_offset, title, text, metadata, content_hash, event_time_ms, indexed_time_ms"
        sql(f"INSERT INTO documents (id, {same}) SELECT 'nobody', {same} FROM documents WHERE id = ?", "good")
        sql("UPDATE documents SET title = 'Edited' WHERE id = ?", "title")
        sql(f"UPDATE chunks SET vector = (SELECT vector FROM chunks WHERE doc = {doc}) WHERE doc = {doc}",
            "good", "vector")  # fmt: skip


def test_drift_of_every_kind_is_found_named_and_mended_and_searches_are_right_again(stack: Stack) -> None:
    names = ("first", "good", "missing", "stale", "ghost", "gone", "title", "vector", "remembered")
    ids = dict(zip(names, published(stack, *names), strict=True))
    stack.search("text", [stack.delete(ids["gone"]), stack.delete(ids["ghost"])])
    status, report = audit(stack)
    assert (status, report["counts"], report["documents"], report["redis"]) == (0, [], 9, True)

    edit(stack, ids)
    stack.stop("embed")
    ids["lost"] = unique("lost")
    lost = stack.publish(ids["lost"], "The text that nobody embeds.")
    forge_through(stack, lost.offset)
    remember(stack, ids["remembered"], 10**9)
    status, report = audit(stack, "--examples", "9")
    assert status == 1
    assert kinds(report) == {
        ids["missing"]: "missing",
        ids["stale"]: "stale",
        ids["ghost"]: "ghost",
        "nobody": "ghost",
        ids["title"]: "mismatched",
        ids["vector"]: "mismatched",
        ids["lost"]: "lost",
        ids["remembered"]: "redis_ahead",
    }

    stack.start("embed")
    status, report = audit(stack, "--repair")
    assert (status, report["repair"]["left"]) == (0, 0), report
    status, report = audit(stack)
    assert (status, report["counts"]) == (0, [])
    hits = stack.hits("text", k=100)
    assert set(hits) == set(ids.values()) - {ids["ghost"], ids["gone"]}
    assert hits[ids["stale"]]["text"] == f"The text of {ids['stale']}."
    assert hits[ids["title"]]["title"] is None
    assert stack.document("nobody") is None


def test_beside_a_publisher_at_full_speed_nothing_is_found_and_a_shard_that_is_away_is_named(stack: Stack) -> None:
    ids = [unique("busy") for _ in range(100)]
    stop, count = threading.Event(), 0

    def publish() -> None:
        nonlocal count
        while not stop.is_set():
            for id in ids:
                count += 1
                if count % 7:
                    stack.publisher.upsert(id, f"Version {count} of {id}.")
                else:
                    stack.publisher.delete(id)
            stack.publisher.flush(10)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        eventually(lambda: stack.document(ids[0]) is not None)
        before = count
        status, report = audit(stack)
        assert count > before + len(ids), "changes were under way"
    finally:
        stop.set()
        thread.join()
    assert (status, report["counts"], report["problems"]) == (0, [], [])
    assert report["rows"] >= len(ids)

    stack.stop("index")
    status, report = audit(stack, "--timeout", "2")
    assert (status, report["status"]) == (2, "incomplete")
    assert "no index worker is known" in report["problems"][0]
