"""Read your own write in one call, and receipts: real Kafka and Redis, two replicas of the index."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from app.cli.main import headrace
from app.gateway.openapi import Document
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from producers import HeadraceClient, Position
from schemas.errors import GatewayUnavailable, NotApplied
from schemas.receipt import Receipt
from schemas.search import SearchResponse
from schemas.waiting import WaitResponse
from tests.services_local import eventually
from tests.stack import Stack, unique

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

SECOND = "index-b"
WITHIN_S = 60.0
FRESHNESS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "freshness.md"


@pytest.fixture(scope="module")
def stack(
    shared_kafka: LocalKafka, shared_redis: LocalRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Two replicas of one index, ready, and both known to the gateway."""
    folder = tmp_path_factory.mktemp("replicas")
    made = Stack(folder, shared_kafka.address, shared_redis.url, runtime="hashing", partitions=2)
    with made:
        made.add_index(SECOND, folder / SECOND, replica="b")
        made.create_topics()
        made.start()
        eventually(lambda: {row["replica"] for row in made.status()["shards"]} == {"0", "b"}, within_s=30)
        yield made


@pytest.fixture
def client(stack: Stack) -> Iterator[HeadraceClient]:
    with HeadraceClient(stack.url, publisher=stack.publisher) as client:
        yield client


def test_what_was_published_is_found_and_what_was_deleted_is_not_by_whoever_is_asked_next(
    stack: Stack, client: HeadraceClient
) -> None:
    """Also a change that produces nothing, which is waited for all the same."""
    id = unique("own")
    for change in range(3):
        done = client.publish_and_wait(id, f"version {min(change, 1)} of {id}", timeout_s=WITHIN_S)
        answer = client.search(id, mode="keyword")
        (hit,) = answer["hits"]
        assert hit["text"] == f"version {min(change, 1)} of {id}"
        assert set(done.waited["replicas"][str(done.position.partition)]) == {"0", "b"}
        if change < 2:
            assert (hit["source_offset"], hit["trace_id"]) == (done.position.offset, done.trace_id)
    assert hit["source_offset"] < done.position.offset  # unchanged content
    assert done.publish_ms > 0
    SearchResponse.model_validate(answer, strict=True)
    WaitResponse.model_validate(done.waited, strict=True)
    Document.model_validate(client.document(id), strict=True)

    gone = client.delete_and_wait(id, timeout_s=WITHIN_S)
    assert client.search(id, mode="keyword")["hits"] == []
    assert client.document(id) is None
    told = client.receipt(id)
    assert told is not None
    Receipt.model_validate(told, strict=True)
    assert (told["state"], told["trace_id"]) == ("deleted", gone.trace_id)
    assert told["source"] == {"partition": gone.position.partition, "offset": gone.position.offset}
    assert {name: one["state"] for name, one in told["replicas"].items()} == {"0": "deleted", "b": "deleted"}
    assert told["everywhere_at"] == max(one["indexed_time"] for one in told["replicas"].values())
    eventually(lambda: stack.metrics("search")["headrace_delete_everywhere_seconds_count"] >= 1)


def test_many_threads_wait_for_their_own_writes_with_one_client(client: HeadraceClient) -> None:
    ids = [unique("many") for _ in range(24)]

    def write(id: str) -> bool:
        done = client.publish_and_wait(id, f"text of {id}", timeout_s=WITHIN_S)
        return [hit["id"] for hit in client.search(id, mode="keyword", min_offsets=done.min_offsets)["hits"]] == [id]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(write, ids))


def test_a_replica_that_is_stopped_is_named_and_no_delete_is_everywhere_before_it_is_back(
    stack: Stack, client: HeadraceClient
) -> None:
    id = unique("stopped")
    client.publish_and_wait(id, f"text of {id}", timeout_s=WITHIN_S)
    stack.send(SECOND, signal.SIGSTOP)
    try:
        with pytest.raises(NotApplied, match=r"in replica b: .* cannot say how far it is") as caught:
            client.delete_and_wait(id, timeout_s=3)
        client.wait(caught.value.min_offsets, WITHIN_S, replicas="any")
        told = client.receipt(id)
        assert told is not None
        assert (told["state"], told["everywhere_at"], told["took_ms"]) == ("deleted", None, None)
        assert [missing["replica"] for missing in told["missing_replicas"]] == ["b"]
        assert told["replicas"].keys() == {"0"}
        run = CliRunner().invoke(headrace, ["receipt", id, "--url", stack.url], standalone_mode=False)
        assert (run.return_value, "not on every known replica" in run.output) == (1, True)
    finally:
        stack.send(SECOND, signal.SIGCONT)
    stack.wait_ready(SECOND)
    eventually(lambda: bool((client.receipt(id) or {})["everywhere_at"]), within_s=WITHIN_S)
    run = CliRunner().invoke(headrace, ["receipt", id, "--url", stack.url, "--json"], standalone_mode=False)
    assert (run.return_value, orjson.loads(run.output)["state"]) == (0, "deleted")


def test_an_offset_that_never_comes_and_a_gateway_that_is_not_there_say_what_is_published(stack: Stack) -> None:
    with HeadraceClient(stack.url, publisher=stack.publisher) as client:
        with pytest.raises(NotApplied, match="may be waited for again") as late:
            client.wait(Position(stack.settings.changes_topic, 0, 10**9), timeout_s=0.2)
        assert late.value.min_offsets == {"0": 10**9}
        assert client.receipt(unique("never")) is None
    with HeadraceClient("http://127.0.0.1:1", publisher=stack.publisher) as client:
        with pytest.raises(GatewayUnavailable, match=r"no gateway at http://127\.0\.0\.1:1") as away:
            client.publish_and_wait(unique("away"), "a text", timeout_s=1)
        assert away.value.min_offsets


def test_the_example_of_the_page_about_freshness_does_what_it_says(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_BROKERS", stack.settings.brokers)
    monkeypatch.setenv("HEADRACE_COLLECTION", stack.settings.collection)
    for call in (HeadraceClient.publish_and_wait, HeadraceClient.delete_and_wait):
        monkeypatch.setitem(call.__kwdefaults__, "timeout_s", WITHIN_S)
    (example,) = re.findall(r"^```python\n(.*?)^```", FRESHNESS_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(example.replace("http://127.0.0.1:8080", stack.url).replace("timeout_s=10", f"timeout_s={WITHIN_S}"), {})
    assert "None" not in capsys.readouterr().out
