"""Dead letters on real Kafka: what cannot be set aside stops the partition; what was set aside comes back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import cache

import pytest
import redis as redis_client
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from app.cli.main import main
from app.kafka.offsets import GroupOffsets
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from app.settings import PREFIX
from tests.conftest import MakeStack
from tests.services_local import eventually
from tests.stack import Stack

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

Run = Callable[..., tuple[int, str, str]]
TIMEOUT_S = 20
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def stack(make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis) -> Stack:
    """One partition, so that what follows an event waits for it. No role runs."""
    return make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1, max_text_bytes=1000)


@pytest.fixture
def run(stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command on the stack's collection: exit status, stdout, stderr."""
    for name in ("brokers", "collection", "redis_url"):
        monkeypatch.setenv(PREFIX + name.upper(), str(getattr(stack.settings, name)))

    def ran(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        told = capsys.readouterr()
        return caught.value.code, told.out, told.err  # type: ignore[return-value]

    return ran


def committed(stack: Stack) -> int:
    """Where the embed workers would go on."""
    return (
        GroupOffsets.of(stack.settings, stack.settings.embed_group)
        .committed(stack.settings.changes_topic, [0])
        .get(0, 0)
    )


def applied(stack: Stack) -> dict[bytes, bytes]:
    """What Redis remembers as applied, by document."""
    prefix = f"headrace:{stack.settings.collection}:applied:".encode()
    with closing(redis_client.Redis.from_url(str(stack.settings.redis_url))) as client:
        keys = list(client.scan_iter(prefix + b"*"))
        return {key.rpartition(b":")[2]: client.get(key) for key in keys}


@cache
def admin(stack: Stack) -> AdminClient:
    """Kept: an answer is lost with its client."""
    return AdminClient({"bootstrap.servers": stack.settings.brokers, "log_level": 0})


def set_largest_letter(stack: Stack, count_bytes: int) -> None:
    """max.message.bytes of the dead-letter topic."""
    entry = ConfigEntry("max.message.bytes", str(count_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, stack.settings.dlq_topic, incremental_configs=[entry])
    (done,) = admin(stack).incremental_alter_configs([resource]).values()
    done.result(TIMEOUT_S)


def test_a_letter_too_large_for_its_topic_ends_the_worker_and_nothing_is_skipped(stack: Stack) -> None:
    stack.start()
    first = stack.publish("first", "Before the damage.")
    stack.search("damage", first)
    set_largest_letter(stack, 1000)
    value = os.urandom(5000)  # which no compression makes small enough
    broken = stack.produce(b"broken", value)
    after = stack.publish("after", "Behind the damage.")

    embed = stack.role("embed")
    eventually(lambda: not embed.running, within_s=30)
    assert embed.ended(0) != 0
    assert f"raise max.message.bytes of {stack.settings.dlq_topic}" in embed.words()
    assert committed(stack) <= broken.offset
    assert stack.document("after") is None
    stack.launch("embed")
    assert embed.ended(30) != 0, "nor does it start before the topic is mended"
    assert f"{stack.settings.dlq_topic} has max.message.bytes=1000" in embed.words()

    set_largest_letter(stack, stack.settings.max_record_bytes)
    stack.start("embed")
    assert set(stack.hits("damage", after)) == {"first", "after"}
    (letter,) = stack.dead_letters(1)
    assert (letter.key(), letter.value()) == (b"broken", value)
    eventually(lambda: committed(stack) == after.offset + 1)


def test_without_its_topic_a_letter_holds_up_what_follows_until_the_topic_is_there(stack: Stack) -> None:
    stack.start()
    first = stack.publish("first", "Before the damage.")
    stack.search("damage", first)
    (deleted,) = admin(stack).delete_topics([stack.settings.dlq_topic]).values()
    deleted.result(TIMEOUT_S)
    broken = stack.produce(b"broken", b"{")
    after = stack.publish("after", "Behind the damage.")
    status, answer = stack.post({"query": "damage", "min_offsets": {"0": after.offset}, "timeout_ms": 3000})
    assert status == 504, answer
    assert stack.role("embed").running
    assert committed(stack) <= broken.offset

    stack.create_topics()
    assert set(stack.hits("damage", after, timeout_ms=60_000)) == {"first", "after"}
    (letter,) = stack.dead_letters(1)
    assert (letter.key(), letter.value()) == (b"broken", b"{")


def test_once_the_cause_is_mended_a_replayed_letter_is_indexed_in_its_trace_and_no_group_is_left(
    stack: Stack, run: Run
) -> None:
    stack.start()
    text = "A long story. " * 100
    value = json.dumps({"id": "long", "text": text}).encode()
    broken = stack.produce(b"long", value, [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())])
    stack.dead_letters(1)
    assert json.loads(run("dlq", "list", "--json")[1])["trace_id"] == TRACE
    assert "max_text_bytes=1000" in run("dlq", "show", "0:0")[1]

    stack.role("embed").settings["max_text_bytes"] = 100_000
    stack.restart("embed")
    status, out, err = run("dlq", "replay", "--id", "long", "--yes")
    assert (status, out) == (0, "1 to replay\n1 replayed\n"), err
    eventually(lambda: stack.document("long") is not None)
    (hit,) = stack.search("story", min_offsets={"0": broken.offset + 1})["hits"]
    assert (hit["id"], hit["trace_id"]) == ("long", TRACE)
    assert "1 already replayed" in run("dlq", "replay", "--all", "--yes")[1]
    groups = admin(stack).list_consumer_groups().result(TIMEOUT_S)
    assert [group.group_id for group in groups.valid if group.group_id.startswith("headrace-")] == []


def test_rewound_workers_embed_again_what_they_had_applied(stack: Stack, run: Run) -> None:
    stack.start()
    positions = [stack.publish(id, f"Text of {id}.") for id in ("a", "b")]
    between_ms = time.time_ns() // 1_000_000 + 1
    eventually(lambda: time.time_ns() // 1_000_000 >= between_ms)
    positions.append(stack.publish("c", "Text of c."))
    stack.search("text", positions)
    eventually(lambda: committed(stack) == 3)

    status, out, _ = run("rewind", "--to-offset", "0:1")
    assert status == 0
    assert out.splitlines()[2].split() == ["0", "3", "1", "2"]
    assert "nothing was changed" in out
    status, _, err = run("rewind", "--to-offset", "0:1", "--yes")
    assert status == 1
    assert "stop the embed workers first: " in err
    assert f":{stack.role('embed').port}" in err, "by the name under which it is registered"
    assert "0:4 is out of range" in run("rewind", "--to-offset", "0:4")[2]
    assert committed(stack) == 3

    stack.stop("embed")
    claims = applied(stack)
    assert set(claims) == {b"a", b"b", b"c"}
    to_time = ("--to-time", datetime.fromtimestamp(between_ms / 1000, UTC).isoformat())
    status, out, _ = run("rewind", *to_time)
    assert out.splitlines()[2].split() == ["0", "3", "2", "1"], "c alone came then or later"
    assert (status, committed(stack), applied(stack)) == (0, 3, claims)
    assert "nothing was changed" in out
    status, out, err = run("rewind", *to_time, "--yes")
    assert (status, committed(stack), applied(stack)) == (0, 2, {}), err
    stack.start("embed")
    eventually(lambda: committed(stack) == 3)
    assert stack.metrics("embed")['headrace_embed_events_total{outcome="embed"}'] == 1, "and was embedded again"
    assert set(applied(stack)) == {b"c"}

    stack.stop("embed")
    status, out, err = run("rewind", "--to-time", "1h", "--yes")
    assert status == 0, err
    assert "Redis forgot 2 entries" in out, "a document and a partition"
    assert committed(stack) == 0
    stack.start("embed")
    eventually(lambda: committed(stack) == 3)
    assert stack.metrics("embed")['headrace_embed_events_total{outcome="embed"}'] == 3
    assert stack.model_chunks() == 0, "the vectors are still known"
    assert set(stack.hits("text", positions)) == {"a", "b", "c"}
