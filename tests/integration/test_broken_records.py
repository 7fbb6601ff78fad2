"""Records that the broker's disk has spoilt: nothing is skipped, other partitions go on, and the way out is as told.

And those that are as they were written, and that Kafka's clients in Python fail to decode.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from app.local.kafka import LocalKafka
from app.local.process import headrace_command
from app.local.redis import LocalRedis
from app.local.role import role_environment
from producers import Position
from tests.broken_batches import GZIP, NONE, batch_with, write
from tests.conftest import MakeStack
from tests.documents import Documents, records
from tests.integration.test_dependencies import set_policy
from tests.services_local import eventually, kafka_or_skip
from tests.stack import Stack

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A Kafka whose files are spoilt."""
    with LocalKafka(tmp_path / "kafka", home=kafka_or_skip()) as kafka:
        yield kafka


class Segment:
    """The file of a partition on the disk of the broker, which must be stopped meanwhile."""

    def __init__(self, folder: Path, topic: str, partition: int) -> None:
        self._path = folder / "log" / f"{topic}-{partition}" / f"{0:020}.log"

    def flip(self, offset: int) -> None:
        """Change a bit of the batch that holds the offset; done once more it is as it was."""
        data, position = bytearray(self._path.read_bytes()), 0
        while True:
            first, length = struct.unpack_from(">qi", data, position)
            (last,) = struct.unpack_from(">i", data, position + 23)
            position += 12 + length
            if first <= offset <= first + last:
                break
        data[position - 1] ^= 1
        self._path.write_bytes(data)


def unreadable(stack: Stack, role: str, at: Position) -> Position | None:
    """The last record of the batch of this one, if /readyz of the role says that it cannot be read."""
    status, body = stack.readyz(role)
    batch = (
        rf"partition {at.partition} of {at.topic} at offset \d+ \(the checksum of its batch, (\d+) to (\d+), is wrong"
    )
    told = re.search(batch, str(body.get("reason")))
    if status != 503 or told is None or not int(told[1]) <= at.offset <= int(told[2]):
        return None
    return replace(at, offset=int(told[2]))


def commit(stack: Stack, position: Position) -> None:
    """Have the embed workers, none of which runs, go on behind a change: what kafka-consumer-groups.sh does."""
    consumer = Consumer({"bootstrap.servers": stack.settings.brokers, "group.id": stack.settings.embed_group})
    try:
        place = TopicPartition(position.topic, position.partition, position.offset + 1)
        assert consumer.commit(offsets=[place], asynchronous=False)[0].error is None
    finally:
        consumer.close()


def delete_records(stack: Stack, position: Position) -> None:
    """All up to this one: what kafka-delete-records.sh does."""
    admin = AdminClient({"bootstrap.servers": stack.settings.brokers, "log_level": 0})
    set_policy(admin, position.topic, "compact,delete")
    for future in admin.delete_records(
        [TopicPartition(position.topic, position.partition, position.offset + 1)]
    ).values():
        future.result(10)
    set_policy(admin, position.topic, "compact")


def audit(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`headrace audit`."""
    settings = {name: getattr(stack.settings, name) for name in ("collection", "brokers", "redis_url")}
    return subprocess.run(
        [*headrace_command("audit"), "--timeout", "20", *arguments],
        env=role_environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_damaged_records_stop_their_partitions_alone_and_can_be_mended_or_given_up(
    make_stack: MakeStack, kafka: LocalKafka, shared_redis: LocalRedis, tmp_path: Path
) -> None:
    stack = make_stack(kafka.address, shared_redis.url, runtime="hashing", partitions=3)
    stack.add_index("index-b", stack.folder / "data-b", replica="b")
    stack.start("embed", "index", "search")
    documents = Documents(stack)
    documents.first()
    stack.stop("embed")
    changes, vectors = stack.settings.changes_topic, stack.settings.vectors_topic
    old = next(message for message in records(stack, vectors) if message.value())
    written = Position(vectors, old.partition(), old.offset())
    unread: dict[int, list[tuple[str, Position]]] = {0: [], 1: [], 2: []}
    while min(map(len, unread.values())) < 2:
        name = f"more{sum(map(len, unread.values()))}"
        documents.upsert(name, "more")
        unread[documents.positions[-1].partition].append((name, documents.positions[-1]))
    first, second, third = sorted(unread, key=lambda partition: partition == written.partition)
    (_, mended), (lost, given_up) = unread[first][1], unread[second][1]
    spoilt = [Segment(tmp_path / "kafka", at.topic, at.partition) for at in (mended, given_up, written)]

    kafka.stop()
    for segment, at in zip(spoilt, (mended, given_up, written), strict=True):
        segment.flip(at.offset)
    kafka.start()
    stack.launch("embed")
    stack.launch("index-b")

    eventually(lambda: unreadable(stack, "embed", mended), within_s=30)
    eventually(lambda: unreadable(stack, "index-b", written), within_s=30)
    readable = [unread[first][0], unread[second][0], *unread[third]]
    stack.hits(documents.word, [position for _, position in readable])
    told = audit(stack, "--partition", str(first))
    assert told.returncode == 2
    assert f"partition {mended.partition} of {changes} cannot be read on" in told.stderr

    kafka.stop()
    spoilt[0].flip(mended.offset)
    kafka.start()
    stack.hits(documents.word, [position for _, position in unread[first]])
    eventually(lambda: unreadable(stack, "embed", given_up), within_s=30)

    last = unreadable(stack, "embed", given_up)
    stack.stop("embed")
    assert last is not None
    commit(stack, last)
    stack.start("embed")
    documents.upsert(lost, "published again")
    assert f"{documents.word}-{lost}" in stack.hits(documents.word, documents.positions, k=1000)

    last = unreadable(stack, "index-b", written)
    assert last is not None
    delete_records(stack, last)
    stack.wait_ready("index-b")
    repaired = audit(stack, "--repair", "--partition", str(third))
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    stack.kill("index")  # the other replica never read what was deleted
    documents.assert_found()


def test_events_whose_headers_have_names_that_are_not_utf_8_are_judged_like_any_other(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", partitions=2)
    stack.start("embed", "index", "search")
    documents = Documents(stack)
    documents.first()
    changes, vectors = stack.settings.changes_topic, stack.settings.vectors_topic
    odd = [(b"caf\xe9", b"latin"), (b"plain", None)]
    written = []
    for partition, compression in ((0, NONE), (1, GZIP)):
        change = {"id": f"{documents.word}-odd{partition}", "text": f"{documents.word} odd"}
        documents.texts[change["id"]] = change["text"]
        batch = [(change["id"].encode(), json.dumps(change).encode(), odd), (b"bad", b"no change", odd)]
        written.append(write(stack.settings.brokers, changes, partition, batch_with(0, batch, compression)))
    write(stack.settings.brokers, vectors, 0, batch_with(0, [(b"bad", b"no record", odd)]))

    stack.hits(documents.word, [replace(at, offset=at.offset + 1) for at in written])
    letters = stack.dead_letters(3)
    assert sorted(value for letter in letters for name, value in letter.headers() if name.endswith(".stage")) == [
        b"decode", b"decode", b"index",
    ]  # fmt: skip
    for letter in letters:
        assert letter.headers()[:2] == [(r"caf\xe9", b"latin"), ("plain", None)]
    stack.restart("embed")
    documents.upsert("after", "that")
    documents.assert_found()
    assert stack.readyz("index")[0] == 200
    audited = audit(stack)
    assert audited.returncode == 0, audited.stdout + audited.stderr
