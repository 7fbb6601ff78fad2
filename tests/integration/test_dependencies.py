"""What a worker depends on fails in ways that are not an outage: full, made again, cut off, hanging."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import httpx
import pytest
import redis as redis_client
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from app.embed.attempts import MOST_DEATHS
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis, find_redis_server
from schemas.dead_letter import decode_dead_letter
from tests.conftest import MakeStack
from tests.documents import Documents, meanwhile, records
from tests.services_local import eventually, redis_or_skip
from tests.stack import Stack, unique

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

STALL_S = 4


@pytest.fixture
def own_redis() -> Iterator[LocalRedis]:
    """A Redis to be spoilt."""
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as redis:
        yield redis


def test_a_redis_that_is_full_costs_work_and_loses_nothing(
    make_stack: MakeStack, shared_kafka: LocalKafka, own_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, own_redis.url, runtime="hashing")
    stack.start()
    documents = Documents(stack)
    documents.first()
    client = redis_client.Redis.from_url(own_redis.url)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    documents.then()
    documents.assert_found()
    assert stack.readyz("embed")[0] == 200
    client.config_set("maxmemory", 0)
    eventually(lambda: stack.readyz("embed")[1]["services"]["redis"] == "ok", within_s=30)
    documents.upsert("after", "there is room again")
    documents.assert_found()


@pytest.mark.parametrize("role", ["embed", "index"])
def test_topics_that_are_made_again_end_the_worker_and_the_next_start_works_with_them(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis, role: str
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing")
    stack.start()
    old = Documents(stack)
    old.first()
    admin = AdminClient({"bootstrap.servers": stack.settings.brokers, "log_level": 0})
    topics = [stack.settings.changes_topic, stack.settings.vectors_topic]
    for future in admin.delete_topics(topics).values():
        future.result(10)
    eventually(lambda: "does not exist" in str(stack.readyz(role)[1].get("reason")), within_s=30)
    stack.create_topics()
    assert stack.role(role).ended(40) == 1
    assert "deleted and made again" in stack.role(role).words()

    stack.kill("embed", "index")
    stack.start("embed", "index")
    new = Documents(stack)
    new.first()
    assert {id for id in stack.hits("first text", k=1000) if id.startswith(old.word)} == set()


def set_policy(admin: AdminClient, topic: str, policy: str) -> None:
    """cleanup.policy of a topic."""
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)


def test_events_that_kafka_deleted_before_they_were_read_are_told(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1)
    stack.start()
    documents = Documents(stack)
    documents.first()
    stack.stop("embed")
    lost = [stack.publish(unique("lost"), "Gone before it was read.") for _ in range(3)]
    admin = AdminClient({"bootstrap.servers": stack.settings.brokers, "log_level": 0})
    place = TopicPartition(stack.settings.changes_topic, 0, lost[-1].offset + 1)
    set_policy(admin, stack.settings.changes_topic, "compact,delete")
    for future in admin.delete_records([place]).values():
        future.result(10)
    set_policy(admin, stack.settings.changes_topic, "compact")
    documents.upsert("after", "what came later")
    stack.start("embed")
    documents.assert_found()
    told = f"events {lost[0].offset} to {lost[-1].offset} were deleted by Kafka before they were read"
    assert told in stack.role("embed").log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("role", "point", "stage"),
    [
        ("embed", "embed.compared", "embedding a batch"),
        ("embed", "kafka.reported", "a watermark of partition"),
        ("index", "index.in_transaction", "a transaction of shard"),
        ("index", "index.searching", "a search of shard"),
    ],
)
def test_a_worker_that_hangs_is_not_ready_then_ends_and_the_next_one_does_the_work(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis, role: str, point: str, stage: str
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", stall_timeout_s=STALL_S)
    for other in {"embed", "index", "search"} - {role}:
        stack.launch(other)
    stack.role(role).settings["crash_at"] = f"{point}:1:HANG"
    stack.launch(role)  # it may hang before it was ever ready: a watermark is a transaction too
    documents = Documents(stack)

    def told() -> bool:
        if stage == "a search of shard":
            with suppress(httpx.TransportError):  # the gateway starts
                stack.post({"query": documents.word})
        reason = str(stack.readyz(role)[1].get("reason"))
        return stage in reason and "after 4 s the process ends" in reason

    if stage != "a watermark of partition":  # else there is nothing but watermarks
        documents.upsert("d", "a document on which it hangs")
        assert documents.positions
    eventually(told, within_s=20)
    assert stack.role(role).ended(20) == 1
    words = stack.role(role).log.read_text(encoding="utf-8")
    assert "HEADRACE_STALL_TIMEOUT_S" in words
    assert "in crash_point" in words, "the stacks say where"
    del stack.role(role).settings["crash_at"]
    documents.upsert("after", "a document that comes later")
    stack.start(role)
    documents.assert_found()


def test_a_text_that_kills_the_embed_worker_again_and_again_becomes_a_dead_letter_and_nothing_else_does(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1)
    for other in ("index", "search"):
        stack.launch(other)
    documents = Documents(stack)
    poison, id = unique("poison"), unique("kills")
    for number in range(5):
        documents.upsert(f"before{number}", f"a text before it, {number}")
    assert documents.positions
    stack.publish(id, f"A text that holds {poison}.")
    for number in range(5):
        documents.upsert(f"after{number}", f"a text after it, {number}")
    stack.role("embed").settings["crash_at"] = f"embed.in_model:1:SIGKILL:{poison}"
    for _ in range(MOST_DEATHS):
        stack.launch("embed")
        assert stack.role("embed").ended(30) == -signal.SIGKILL, stack.role("embed").words()
    stack.start("embed")
    documents.assert_found()
    (letter,) = records(stack, stack.settings.dlq_topic)
    assert letter.key() == id.encode()
    told = decode_dead_letter(letter.headers())
    assert (told.stage, told.error_class) == ("embed", "UnembeddableText")
    assert told.message == "the embed worker ended 3 times, killed or hung, while the model had this text"


def test_a_partition_that_ends_with_a_transaction_stays_fresh(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    """The marker of a transaction has an offset, and no worker ever gets to see it."""
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1)
    stack.start()
    producer = Producer({"bootstrap.servers": stack.settings.brokers, "transactional.id": unique("t"), "log_level": 0})
    producer.init_transactions(30)
    for text, finish in (("committed", producer.commit_transaction), ("taken back", producer.abort_transaction)):
        producer.begin_transaction()
        value = json.dumps({"op": "upsert", "id": text, "text": f"What was {text}."})
        producer.produce(stack.settings.changes_topic, value, text.encode(), 0)
        producer.flush(30)
        finish(30)
    end = 3  # two events and two markers: offsets 0 to 3
    assert set(stack.hits("what", min_offsets={"0": end}, timeout_ms=30_000)) == {"committed"}
    for _ in range(5):
        staleness_ms = stack.search("what", max_staleness_ms=5000, timeout_ms=30_000)["freshness"]["staleness_ms"]
        assert staleness_ms <= 5000


def test_the_clock_of_a_producer_says_nothing_about_how_fresh_a_shard_is(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1)
    stack.start()
    producer = Producer({"bootstrap.servers": stack.settings.brokers, "log_level": 0})
    before_ms = time.time_ns() // 1_000_000
    for number, hour_ms in enumerate((-3_600_000, 3_600_000)):
        value = json.dumps({"id": f"d{number}", "text": "A clock that is wrong."})
        producer.produce(stack.settings.changes_topic, value, f"d{number}", 0, timestamp=before_ms + hour_ms)
    assert producer.flush(30) == 0
    answer = stack.search("clock", min_offsets={"0": 1}, timeout_ms=30_000)
    after_ms = time.time_ns() // 1_000_000
    times = [answer["freshness"]["as_of"], *(hit["event_time"] for hit in answer["hits"])]
    assert len(times) == 3
    assert all(before_ms <= datetime.fromisoformat(at).timestamp() * 1000 <= after_ms for at in times), times


class Client:
    """Asks one of two gateways, as a balancer in front of them would: the other one where the first is going away."""

    def __init__(self, stack: Stack, word: str, wanted: set[str]) -> None:
        self.failures: list[str] = []
        self.asked = 0
        self._urls = [stack.role(name).url for name in ("search", "search-b")]
        self._body = {"query": word, "k": 1000}
        self._wanted = wanted

    def ask(self, http: httpx.Client) -> None:
        self.asked += 1
        told = []
        for url in self._urls:
            try:
                response = http.post(url + "/search", json=self._body)
            except httpx.TransportError as error:
                told.append(repr(error))
                continue
            if response.status_code == 200:
                answer = response.json()
                missing = self._wanted - {hit["id"] for hit in answer["hits"]}
                if answer["partial"] or missing:
                    self.failures.append(f"partial {answer['partial']}, without {missing}")
                return
            told.append(f"{response.status_code} {response.text[:200]}")
        self.failures.append("; ".join(told))

    @contextmanager
    def asking(self) -> Iterator[None]:
        with httpx.Client(trust_env=False, timeout=10) as http, meanwhile(lambda: self.ask(http)):
            yield


def test_a_rolling_restart_of_everything_under_load_loses_no_query_and_no_document(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing")
    stack.add_index("index-b", stack.folder / "data-b", replica="b")
    stack.add_embed("embed-b")
    stack.add_search("search-b")
    stack.start()
    documents = Documents(stack)
    documents.first()
    wanted = set(documents.texts)
    eventually(lambda: len(stack.status()["shards"]) == 8, within_s=30)
    client = Client(stack, documents.word, wanted)
    load = unique("load")
    stop = threading.Event()
    sent = []

    def publish() -> None:
        number = 0
        while not stop.wait(0.1):  # one search finds a thousand at most
            sent.append(stack.publisher.upsert(f"{load}-{number}", f"Document {number} of the {load}."))
            number += 1

    publishing = threading.Thread(target=publish)
    publishing.start()
    with client.asking():
        for name in ("embed", "embed-b", "index", "index-b", "search", "search-b"):
            stack.stop(name)
            stack.start(name)
            time.sleep(1.5)  # until gateways have seen it
    stop.set()
    publishing.join()
    assert client.asked > 100
    assert client.failures == []
    positions = [future.result(30) for future in sent]
    hits = stack.hits(load, positions, k=1000, mode="keyword")
    assert {id for id in hits if id.startswith(load)} == {f"{load}-{number}" for number in range(len(sent))}
    eventually(lambda: stack.status()["documents"] == len(sent) + len(wanted), within_s=20)


def test_what_is_published_right_after_the_topics_were_made_again_is_not_lost(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    """Workers of the life before take it for their own for some seconds, and commit its offsets."""
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", partitions=1)
    stack.start()
    Documents(stack).first()
    admin = AdminClient({"bootstrap.servers": stack.settings.brokers, "log_level": 0})
    for future in admin.delete_topics([stack.settings.changes_topic, stack.settings.vectors_topic]).values():
        future.result(10)
    eventually(lambda: stack.settings.changes_topic not in admin.list_topics(timeout=5).topics)
    stack.create_topics()
    again = Documents(stack)
    while stack.role("embed").running and len(again.texts) < 400:
        again.upsert(f"d{len(again.texts)}", "of the new life")
        assert again.positions[-1]  # confirmed
        time.sleep(0.1)
    assert not stack.role("embed").running
    stack.kill("index")
    stack.start("embed", "index")
    again.assert_found()
