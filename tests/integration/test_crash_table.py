"""The crash table: whatever is killed, and wherever, the end is the same and nothing is missing on the way."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from app.crash import POINTS, Point
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from tests.conftest import MakeStack
from tests.documents import Documents, compacted, letters, records
from tests.services_local import eventually
from tests.stack import Stack

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

BATCH = 6
DIES_S = 30.0
OWED: list[Point] = ["index.repaired", "index.dead_lettered"]
WHILE_WRITING: list[Point] = ["index.snapshot_written", "index.snapshot_renamed"]
NO_STEP: list[Point] = ["embed.in_model", "index.searching", "kafka.reported"]  # see test_dependencies
BY_ANY_BATCH: list[Point] = [
    point for point in POINTS if point not in (*OWED, *WHILE_WRITING, *NO_STEP, "index.rebuilt")
]


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
