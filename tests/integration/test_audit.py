"""`headrace audit` on real Kafka and Redis: silent where nothing is wrong; what is made wrong is found and mended."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any

import httpx
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

SECOND = "index-b"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> Iterator[Stack]:
    """One shard, so that every document of a replica is in one file. The second replica is for whoever starts it."""
    folder = tmp_path_factory.mktemp("audit")
    with Stack(folder, shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1) as made:
        made.add_index(SECOND, folder / SECOND, replica="b")
        made.create_topics()
        made.start("embed", "index", "search")
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
def shard_file(stack: Stack, folder: str = "data") -> Iterator[sqlite3.Connection]:
    """The file of a shard, whose worker must be stopped."""
    (path,) = (stack.folder / folder).rglob("shard-0.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


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


def edit(file: sqlite3.Connection, ids: dict[str, str]) -> None:
    """What must never happen: rows change without a record."""

    def sql(statement: str, *names: str) -> None:
        file.execute(statement, [ids[name] for name in names])

    doc = "(SELECT doc FROM documents WHERE id = ?)"
    sql(f"DELETE FROM chunks WHERE doc = {doc}", "missing")
    sql("DELETE FROM documents WHERE id = ?", "missing")
    sql("UPDATE documents SET text = 'An old text.', source_offset = 0 WHERE id = ?", "stale")
    sql("UPDATE documents SET text = 'Of no change.', source_offset = source_offset + 1 WHERE id = ?", "ahead")
    sql("UPDATE documents SET deleted = 0, text = 'It is back.', source_offset = 1 WHERE id = ?", "ghost")
    same = "deleted, version, source_offset, title, text, metadata, content_hash, event_time_ms, indexed_time_ms"
    sql(f"INSERT INTO documents (id, {same}) SELECT ?, {same} FROM documents WHERE id = ?", "nobody", "good")
    sql("UPDATE documents SET title = 'Edited' WHERE id = ?", "title")
    sql(f"UPDATE chunks SET vector = (SELECT vector FROM chunks WHERE doc = {doc}) WHERE doc = {doc}",
        "good", "vector")  # fmt: skip


def test_drift_of_every_kind_is_found_named_and_mended_and_searches_are_right_again(stack: Stack) -> None:
    names = ("first", "good", "missing", "stale", "ahead", "ghost", "gone", "title", "vector", "remembered")
    ids = dict(zip(names, published(stack, *names), strict=True))
    stack.search("text", [stack.delete(ids["gone"]), stack.delete(ids["ghost"])])
    status, report = audit(stack)
    assert (status, report["counts"], report["documents"], report["redis"]) == (0, [], 10, True)

    stack.stop("index")
    with shard_file(stack) as file:
        edit(file, ids | {"nobody": "nobody"})
    stack.start("index")
    stack.stop("embed")
    ids["lost"] = unique("lost")
    lost = stack.publish(ids["lost"], "The text that nobody embeds.")
    forge_through(stack, lost.offset)
    remember(stack, ids["remembered"], 10**9)
    status, report = audit(stack, "--examples", "10")
    assert status == 1
    assert kinds(report) == {
        ids["missing"]: "missing",
        ids["stale"]: "stale",
        ids["ahead"]: "ahead",
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
    assert hits[ids["ahead"]]["text"] == f"The text of {ids['ahead']}."
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


DRIFT = ("good", "missing", "stale", "ahead", "ghost", "title", "vector")


class Writer:
    """Edits and deletes documents in turn from a thread, waiting for every delivery report; used as a context manager.

    texts: what each document is in the end, None where it is deleted.
    """

    def __init__(self, stack: Stack, ids: list[str]) -> None:
        self._stack = stack
        self._ids = ids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.texts: dict[str, str | None] = {}
        self.count = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for turn in count():
            for place, id in enumerate(self._ids):
                if self._stop.is_set():
                    return
                text = None if (turn + place) % 3 == 0 else f"Text {turn} of {id}."
                if text is None:
                    self._stack.delete(id)
                else:
                    self._stack.publish(id, text)
                self.texts[id] = text
                self.count += 1


def held(stack: Stack, worker: str, ids: list[str]) -> dict[str, str | None]:
    """The texts that one replica holds, None for documents that it knows as deleted or not at all."""
    texts: dict[str, str | None] = {}
    with httpx.Client(trust_env=False, base_url=stack.role(worker).url) as client:
        for id in ids:
            answer = client.get("/shards/document", params={"id": id}).json()
            deleted = answer["document"] is None or answer["deleted"]
            texts[id] = None if deleted else answer["document"]["text"]
    return texts


def test_a_repair_of_two_replicas_mends_beside_a_writer_and_undoes_nothing_that_it_wrote(stack: Stack) -> None:
    """Of each kind: a document of either replica that nobody changes, one of both that the writer changes meanwhile."""
    stack.start("index", SECOND)
    own, second, both = (dict(zip(DRIFT, published(stack, *DRIFT), strict=True)) for _ in range(3))
    ghosts = [ids["ghost"] for ids in (own, second, both)]
    stack.search("text", [stack.delete(id) for id in ghosts])
    for ids in (own, second, both):
        ids["nobody"] = unique("nobody")
    expected = {id: f"The text of {id}." for ids in (own, second) for id in ids.values()}
    expected |= dict.fromkeys([*ghosts, own["nobody"], second["nobody"]])
    stack.stop("index", SECOND)
    for folder, ids in (("data", own), (SECOND, second)):
        with shard_file(stack, folder) as file:
            edit(file, ids)
            edit(file, both)
    stack.launch("index")
    stack.launch(SECOND)
    stack.wait_ready()

    with Writer(stack, [*both.values(), *(unique("busy") for _ in range(20))]) as writer:
        eventually(lambda: writer.count > 10)
        before = writer.count
        status, report = audit(stack, "--repair", "--examples", "100")
        during = writer.count - before
    assert (status, report["repair"]["left"], report["problems"]) == (0, 0, []), report
    assert during > len(both), "the writer wrote meanwhile"
    found = Counter(
        (replica, finding["kind"])
        for replica, ids in (("0", own), ("b", second))
        for finding in report["examples"]
        if finding["replica"] == replica and finding["id"] in ids.values()
    )
    forged = {"missing": 1, "stale": 1, "ahead": 1, "ghost": 2, "mismatched": 2}
    assert found == {(replica, kind): n for replica in ("0", "b") for kind, n in forged.items()}, report

    status, report = audit(stack)
    assert (status, report["replicas"], report["counts"]) == (0, ["0", "b"], [])
    expected |= writer.texts
    for worker in ("index", SECOND):
        assert held(stack, worker, list(expected)) == expected
