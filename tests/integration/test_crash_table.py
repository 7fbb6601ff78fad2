"""The crash table: whatever is killed, and wherever, the end is the same and nothing is missing on the way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from app.crash import POINTS, Point
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from producers import Position
from schemas.vector_record import decode_vector_record
from tests.conftest import MakeStack
from tests.services_local import eventually
from tests.stack import Stack, unique

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

BATCH = 6
DIES_S = 30.0
OWED: list[Point] = ["index.repaired", "index.dead_lettered"]
WHILE_WRITING: list[Point] = ["index.snapshot_written", "index.snapshot_renamed"]
BY_ANY_BATCH: list[Point] = [point for point in POINTS if point not in (*OWED, *WHILE_WRITING, "index.rebuilt")]


class Documents:
    """What was published to a stack, and what must be there in the end."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.word = unique("crash")
        self.texts: dict[str, str] = {}
        self._sent: list[Future[Position]] = []

    def upsert(self, name: str, text: str, **fields: object) -> None:
        id = f"{self.word}-{name}"
        self.texts[id] = f"{self.word} {text}"
        self._sent.append(self.stack.publisher.upsert(id, self.texts[id], **fields))  # type: ignore[arg-type]

    def delete(self, name: str) -> None:
        self.texts.pop(f"{self.word}-{name}")
        self._sent.append(self.stack.publisher.delete(f"{self.word}-{name}"))

    @property
    def positions(self) -> list[Position]:
        """Of all that was published."""
        return [future.result(30) for future in self._sent]

    def first(self) -> None:
        """Documents that can be found."""
        for number in range(12):
            self.upsert(f"d{number}", f"first text of {number}")
        self.assert_found()

    def then(self) -> None:
        """Several batches of changes: new ones, edits, twice the same document, deletes, one that is made again, and
        what is no change at all."""
        self.upsert("d0", "an edit")
        self.upsert("new", "a new document")
        self.delete("d1")
        assert self.positions  # what follows is written by another producer, after them
        self.stack.produce(f"{self.word}-bad".encode(), b"no change")
        self.upsert("d2", "one edit")
        self.upsert("d2", "two edits")
        self.delete("d3")
        self.upsert("d3", "made again")
        self.upsert("d4", "with a version", version=5)
        self.stack.publish(f"{self.word}-d4", "too old", version=4)
        self.delete("d5")
        assert self.positions
        self.stack.produce(f"{self.word}-d5".encode(), None)  # after the explicit delete, as Debezium does it
        for number in range(8):
            self.upsert(f"more{number}", f"more of {number}")

    def assert_found(self) -> None:
        """Just what is to be found, in the shards and in the topic, compacted or not."""
        hits = self.stack.hits(self.word, self.positions, k=1000, timeout_ms=30_000)
        own = {id: hit["text"] for id, hit in hits.items() if id.startswith(self.word)}
        assert own.keys() == self.texts.keys()
        assert [id for id, chunk in own.items() if chunk not in self.texts[id]] == []
        eventually(lambda: compacted(self.stack, self.word) == self.texts, within_s=15)

    @contextmanager
    def never_missing(self, *names: str) -> Iterator[None]:
        """Documents that nobody touches must be in every answer that is whole."""
        wanted = {f"{self.word}-{name}" for name in names}
        missed: list[set[str]] = []
        asked = 0

        def ask() -> None:
            nonlocal asked
            status, answer = self.stack.post({"query": self.word, "k": 1000})
            if status == 200 and not answer["partial"]:
                asked += 1
                missed.append(wanted - {hit["id"] for hit in answer["hits"]})

        with meanwhile(ask):
            yield
        assert asked
        assert not any(missed)


@contextmanager
def meanwhile(ask: Callable[[], object]) -> Iterator[None]:
    """Do that again and again, in another thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            ask()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def records(stack: Stack, topic: str) -> Iterator[Message]:
    """Every record of a topic, in the order of each partition."""
    consumer = Consumer(
        {"bootstrap.servers": stack.settings.brokers, "group.id": unique("read"), "log_level": 0}
        | {"fetch.wait.max.ms": 20}
    )
    try:
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            place = TopicPartition(topic, partition, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=10)
            consumer.assign([place])
            reached, deadline = 0, time.monotonic() + 30
            while reached < end:
                assert time.monotonic() < deadline
                for message in consumer.consume(500, timeout=0.05):
                    assert message.error() is None, message.error()
                    reached = message.offset() + 1
                    yield message
    finally:
        consumer.close()


def compacted(stack: Stack, word: str) -> dict[str, str]:
    """The texts of the documents with that word, by the last record of each key: what compaction keeps."""
    last = {message.key(): message.value() for message in records(stack, stack.settings.vectors_topic)}
    own = {key.decode(): value for key, value in last.items() if key.startswith(word.encode()) and value}
    return {id: decode_vector_record(value).text for id, value in own.items()}


def letters(stack: Stack, key: str) -> int:
    """How many dead letters have that key."""
    return sum(message.key() == key.encode() for message in records(stack, stack.settings.dlq_topic))


def crash(stack: Stack, role: str, point: Point) -> None:
    """Start a role that is not running; it must be killed at that point."""
    stack.role(role).settings["crash_at"] = point
    stack.launch(role)
    assert stack.role(role).ended(DIES_S) == -signal.SIGKILL, stack.role(role).words()
    del stack.role(role).settings["crash_at"]


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> Iterator[Stack]:
    """For all tests that need no other settings."""
    folder, small = tmp_path_factory.mktemp("crash"), {"batch_max_documents": BATCH, "write_buffer_rows": 8}
    with Stack(folder, shared_kafka.address, shared_redis.url, runtime="hashing", **small) as stack:
        stack.create_topics()
        stack.start()
        yield stack


@pytest.mark.parametrize("point", BY_ANY_BATCH)
def test_a_worker_that_is_killed_there_changes_nothing(stack: Stack, point: Point) -> None:
    role = point.partition(".")[0]
    documents = Documents(stack)
    documents.first()
    stack.stop(role)
    documents.then()
    with documents.never_missing("d6", "d7", "d8"):
        crash(stack, role, point)
        stack.start(role)
        documents.assert_found()


@pytest.mark.parametrize("point", OWED)
def test_what_a_killed_index_worker_owes_the_topics_it_still_gives(stack: Stack, point: Point) -> None:
    documents = Documents(stack)
    documents.first()
    topic, id = stack.settings.vectors_topic, f"{documents.word}-d0"
    older = next(message for message in records(stack, topic) if message.key() == id.encode())
    documents.upsert("d0", "an edit")
    documents.assert_found()
    stack.stop("index")
    producer = Producer({"bootstrap.servers": stack.settings.brokers, "log_level": 0})
    bad = f"bad-{documents.word}"
    for key, value in ((id, older.value()), (bad, b"damaged")):
        producer.produce(topic, value, key, older.partition(), headers=older.headers())
    assert producer.flush(10) == 0
    assert compacted(stack, documents.word)[id] != documents.texts[id]

    crash(stack, "index", point)
    stack.start("index")

    documents.assert_found()
    eventually(lambda: letters(stack, bad) > 0, within_s=15)


def test_an_index_worker_that_is_killed_while_it_makes_or_writes_a_graph_changes_nothing(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    quick = {"max_chunk_tokens": 16, "hnsw_m": 4, "hnsw_ef_construction": 16, "partitions": 1}
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", **quick)
    stack.start()
    documents = Documents(stack)

    def edit_all(edit: str) -> None:
        for number in range(60):
            documents.upsert(f"d{number}", " ".join(f"word{edit}{number}x{n}." for n in range(1500)))

    edit_all("a")
    for point in WHILE_WRITING:
        stack.kill("index")
        crash(stack, "index", point)
        stack.start("index")
        documents.assert_found()
    stack.stop("index")
    role = stack.role("index")
    role.settings["crash_at"] = "index.rebuilt"
    stack.start("index")
    edit_all("b")
    assert role.ended(DIES_S) == -signal.SIGKILL, role.words()
    del role.settings["crash_at"]
    stack.start("index")
    documents.assert_found()
