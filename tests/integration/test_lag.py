"""Lag as the gateway tells it, on real Kafka: true while workers are stopped, dead or not there yet, and when idle."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from app.kafka.offsets import GroupOffsets
from app.kafka.reading import TopicReader
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from tests.conftest import MakeStack
from tests.services_local import eventually, kafka_or_skip
from tests.stack import Stack, unique

pytestmark = [pytest.mark.kafka]

WITHIN_S = 60


def lag(stack: Stack, stage: str) -> tuple[int, float]:
    """Records and seconds of the only partition; -1 where that is not known."""
    told: dict[str, Any] = stack.status()["lag"]
    row = told[stage].get("0", {"records": None})
    return (-1, -1.0) if row["records"] is None else (row["records"], row["seconds"])


def nothing_waits(stack: Stack) -> bool:
    return lag(stack, "embed") == lag(stack, "index") == (0, 0.0)


def grows(stack: Stack, stage: str) -> None:
    """Seconds go on although no more comes, to Prometheus as well."""
    _, before = lag(stack, stage)
    replica = "0" if stage == "index" else ""
    sample = f'headrace_lag_seconds{{partition="0",replica="{replica}",stage="{stage}"}}'
    eventually(lambda: lag(stack, stage)[1] > before + 0.2, WITHIN_S)
    assert stack.metrics("search")[sample] > before + 0.2


def publish(stack: Stack, count: int) -> None:
    stack.publish_all({unique("doc"): f"Document {number}, which waits." for number in range(count)})


def publish_in_a_transaction(stack: Stack) -> None:
    """Leaves a marker behind the event: an offset that no reader ever gets."""
    producer = Producer(
        {"bootstrap.servers": stack.settings.brokers, "transactional.id": unique("transaction"), "log_level": 0}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(stack.settings.changes_topic, b'{"op": "upsert", "id": "t", "text": "Transacted."}', b"t")
    producer.commit_transaction(30)


def committed_and_end(stack: Stack) -> tuple[int, int]:
    topic = stack.settings.changes_topic
    with TopicReader(stack.settings, unique("end")) as reader:
        end = reader.span(topic, 0)[1]
    return GroupOffsets.of(stack.settings, stack.settings.embed_group).committed(topic, [0])[0], end


@pytest.mark.redis
def test_lag_tells_what_waits_for_a_worker_that_is_not_there_or_stopped_or_dead(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(
        shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1, lag_interval_s=0.3, stall_timeout_s=0
    )
    stack.launch("index")
    stack.launch("search")
    publish(stack, 3)
    stack.wait_ready("index", "search")
    eventually(lambda: lag(stack, "embed")[0] == 3, WITHIN_S)  # no embed worker was ever there
    grows(stack, "embed")
    stack.start("embed")
    eventually(lambda: nothing_waits(stack), WITHIN_S)

    stack.send("embed", signal.SIGSTOP)
    publish(stack, 2)
    stack.produce(b"poison", b"not JSON")
    publish_in_a_transaction(stack)
    eventually(lambda: lag(stack, "embed")[0] == 5, WITHIN_S)
    grows(stack, "embed")
    assert lag(stack, "index") == (0, 0.0)
    assert stack.status()["lag"]["dead_letters"] == 0
    stack.send("embed", signal.SIGCONT)
    eventually(lambda: nothing_waits(stack), WITHIN_S)
    committed, end = committed_and_end(stack)
    assert committed == end - 1, "the marker is beyond the last event"
    assert stack.status()["lag"]["dead_letters"] == 1

    stack.send("index", signal.SIGSTOP)  # watermarks wait for it
    eventually(lambda: lag(stack, "index")[0] > 0, WITHIN_S)
    grows(stack, "index")
    stack.send("index", signal.SIGCONT)
    eventually(lambda: nothing_waits(stack), WITHIN_S)

    stack.kill("embed")
    publish(stack, 4)
    eventually(lambda: lag(stack, "embed")[0] == 4, WITHIN_S)  # not the marker before them
    grows(stack, "embed")


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A Kafka to be killed."""
    with LocalKafka(tmp_path / "kafka", home=kafka_or_skip()) as kafka:
        yield kafka


def test_without_kafka_the_lag_is_not_known_and_no_number_stays(make_stack: MakeStack, kafka: LocalKafka) -> None:
    stack = make_stack(kafka.address, None, runtime="hashing", partitions=1, lag_interval_s=0.3)
    stack.launch("search")

    def known(expected: bool) -> bool:
        return stack.readyz("search")[0] != 0 and stack.status()["lag"]["known"] is expected

    eventually(lambda: known(True), WITHIN_S)
    assert lag(stack, "embed") == (0, 0.0)
    assert lag(stack, "index") == (-1, -1.0), "no index worker tells anything"
    kafka.kill()
    eventually(lambda: known(False), WITHIN_S)
    told = stack.status()["lag"]
    assert "no Kafka at" in told["reason"] or "imed out" in told["reason"] or "ransport" in told["reason"]
    assert (told["embed"], told["dead_letters"]) == ({}, None)
    samples = stack.metrics("search")
    assert samples["headrace_lag_known"] == 0
    assert [name for name in samples if name.startswith(("headrace_lag_records", "headrace_lag_seconds"))] == []
    kafka.start()
    eventually(lambda: known(True), WITHIN_S)
    assert stack.metrics("search")["headrace_lag_known"] == 1
