"""What of Faust loses events however it is used is not used, and the defaults that do are not left."""

from __future__ import annotations

import ast
import inspect
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer import group_coordinator
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from faust.transport.drivers import aiokafka as driver

from app.kafka.lease import GroupLease
from app.kafka.topics import CollectionTopics
from app.settings import Settings
from consumers import worker_consumer
from consumers.embed import worker as embed_worker
from consumers.faust_app import make_app
from consumers.index.consumer import ShardConsumer
from consumers.worker_consumer import WorkerConsumer, _ConsumerThread
from tests.unit.consumers import test_embed_worker, test_index_worker
from tests.unit.test_layers import ROOT

# a batch of take is acknowledged though it failed; the others count on exactly-once, tables, or Faust's own producer
FORBIDDEN_CALLS = {
    *("take", "take_events", "take_with_timestamp", "noack_take", "group_by", "through", "Table", "GlobalTable"),
    *("SetTable", "cast", "ask", "forward", "setup_opentelemetry", "wait_for_stopped_flow", "seek"),
}
FORBIDDEN_OPTIONS = {
    *("processing_guarantee", "stream_publish_on_commit", "producer_threaded", "cython_optimizations", "concurrency"),
    *("isolated_partitions", "consumer_group_instance_id", "stream_recovery_delay"),
}
FILES = sorted((ROOT / "consumers").rglob("*.py"))


def trespasses(tree: ast.AST) -> list[str]:
    """Calls and options that must not be."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute) and function.attr in FORBIDDEN_CALLS:
                found.append(ast.unparse(function))
            found += [word.arg for word in node.keywords if word.arg in FORBIDDEN_OPTIONS]
        elif isinstance(node, ast.Dict):
            found += [
                key.value for key in node.keys if isinstance(key, ast.Constant) and key.value in FORBIDDEN_OPTIONS
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("faust.contrib"):
            found.append(str(node.module))
    return [name for name in found if name != "self._inbox.take"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_that_loses_events_is_used(file: Path) -> None:
    assert trespasses(ast.parse(file.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        *("stream.take(5, within=1)", "s.group_by(k)", "app.agent(t, concurrency=2)", "{'processing_guarantee': 1}"),
        *("from faust.contrib.opentelemetry import setup_opentelemetry", "consumer.seek(tp, 5)", "app.Table('t')"),
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert trespasses(ast.parse(code))


async def built(consumer_type: type[WorkerConsumer] = WorkerConsumer, **options: Any) -> Any:
    settings = Settings(_env_file=None, session_timeout_ms=9000)
    app = make_app(settings, "group", CollectionTopics(4, "epoch"), consumer_type, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app.finalize()
    return app


async def test_no_default_of_faust_is_left_that_loses_or_hides_events() -> None:
    conf = (await built()).conf
    assert conf.processing_guarantee.name == "AT_LEAST_ONCE"
    assert (conf.stream_publish_on_commit, conf.producer_threaded, conf.cython_optimizations) == (False,) * 3
    assert (conf.key_serializer, conf.value_serializer) == ("raw", "raw")
    assert (conf.stream_wait_empty, conf.web_enabled, conf.consumer_group_instance_id) == (False, False, None)
    assert (conf.topic_allow_declare, conf.topic_disable_leader, conf.autodiscover) == (False, True, False)
    assert conf.stream_recovery_delay == 0


async def test_giving_partitions_back_takes_less_time_than_the_group_gives() -> None:
    conf = (await built()).conf
    assert conf.broker_rebalance_timeout > worker_consumer._COMMIT_S + embed_worker.REVOKE_S + embed_worker.COMMIT_S
    longest = make_app(
        Settings(_env_file=None, session_timeout_ms=600_000), "group", CollectionTopics(4, "epoch"), WorkerConsumer
    ).conf
    assert longest.broker_session_timeout <= longest.broker_request_timeout  # else Faust does not start


@pytest.mark.parametrize(
    ("consumer_type", "options", "sticky"),
    [(WorkerConsumer, {"table_standby_replicas": 0}, False), (ShardConsumer, {"canonical_url": "http://me"}, True)],
)
async def test_the_kafka_consumer_that_faust_makes_is_the_one_we_want(
    consumer_type: type[WorkerConsumer], options: dict[str, Any], sticky: bool
) -> None:
    app = await built(consumer_type, **options)
    thread = app.consumer._thread
    assert isinstance(thread, _ConsumerThread)
    kafka = thread._create_worker_consumer(app.transport)
    assert kafka._fetch_max_wait_ms == 20
    assert kafka._max_poll_interval_ms > 3e10  # ten years: a worker without partitions leaves for ever after it
    assert (kafka._session_timeout_ms, kafka._rebalance_timeout_ms) == (9000, 60_000)
    assert (kafka._isolation_level, kafka._auto_offset_reset) == ("read_committed", "earliest")
    assert (kafka._enable_auto_commit, kafka._group_instance_id) == (False, None)
    assert kafka._client._metadata_max_age_ms == 5000  # a topic made again is seen; by default after five minutes
    (assignor,) = kafka._partition_assignment_strategy
    assert assignor is (app.assignor if sticky else RoundRobinPartitionAssignor)
    kafka._closed = True  # it was never started
    thread.thread_loop.close()


@pytest.mark.parametrize("module", [test_embed_worker, test_index_worker])
async def test_each_worker_has_one_agent_that_crashes_alone_and_raw_bytes(module: Any, tmp_path: Path) -> None:
    app = await built()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FakeFaust", lambda *_: app)
        parts = module.Parts([]) if module is test_embed_worker else module.Parts(tmp_path, [])
    (agent,) = app.agents.values()
    topic = agent.channel
    assert (agent.concurrency, agent.isolated_partitions) == (1, False)
    assert agent.supervisor_strategy.__name__ == "CrashingSupervisor"
    assert (topic.key_serializer, topic.value_serializer, topic.key_type, topic.value_type) == (
        "raw",
        "raw",
        bytes,
        bytes,
    )
    assert (topic.internal, topic.acks) == (False, module is test_embed_worker)
    parts.worker._thread.shutdown()


def test_aiokafka_still_sends_heartbeats_and_joins_where_we_renew_the_lease() -> None:
    source = Path(group_coordinator.__file__).read_text()
    for name in ("_do_heartbeat", "_do_rejoin_group"):
        assert inspect.iscoroutinefunction(getattr(group_coordinator.GroupCoordinator, name))
        assert f"await self.{name}(" in source


async def test_only_an_answered_heartbeat_renews_the_lease_and_joining_sends_one_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = await built()
    thread, now, answered = app.consumer._thread, [0.0], [False]
    app.consumer.lease = GroupLease(9.0, lambda: now[0])

    async def heartbeat() -> bool:
        return answered[0]

    async def rejoin(_: Any) -> bool:
        return True

    async def start(_: Any) -> None:
        """Connects to nothing."""

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_start", start)
    monkeypatch.setattr(app.consumer.unreadable, "attach", lambda _: None)
    coordinator = SimpleNamespace(_do_heartbeat=heartbeat, _do_rejoin_group=rejoin, commit_offsets=None)
    thread._consumer = SimpleNamespace(_coordinator=coordinator, _client=SimpleNamespace(send=None))
    await thread.on_start()
    assert not await coordinator._do_heartbeat()
    assert await coordinator._do_rejoin_group(None)
    assert not app.consumer.lease.holds
    answered[0] = True
    assert await coordinator._do_rejoin_group(None)
    assert app.consumer.lease.holds
    now[0] = 9.0
    assert not app.consumer.lease.holds
    assert await coordinator._do_heartbeat()
    assert app.consumer.lease.holds
    thread.thread_loop.close()
