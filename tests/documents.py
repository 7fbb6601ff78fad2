"""Documents published to a stack and what must have become of them: in the shards, and by the records of its topics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from confluent_kafka import Consumer, Message, TopicPartition

from producers import Position
from schemas.vector_record import decode_vector_record
from tests.services_local import eventually
from tests.stack import Stack, unique


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
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            consumer.assign([TopicPartition(topic, partition, first)])
            reached, deadline = first, time.monotonic() + 30
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
