"""Which Kafka and which Redis `headrace up` uses."""

from __future__ import annotations

import io
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.local import services
from app.local.broker import EmbeddedBroker
from app.local.console import Console
from app.local.process import free_port
from app.local.redis import LocalRedis
from app.local.services import kafka_for, redis_for
from app.settings import Settings
from schemas.errors import ServiceMissing
from tests.services_local import redis_or_skip


@pytest.fixture
def console() -> Console:
    return Console(io.StringIO(), io.StringIO())


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_a_kafka_that_was_asked_for_must_be_there(tmp_path: Path, console: Console) -> None:
    own = settings(brokers=f"127.0.0.1:{free_port()}")

    with ExitStack() as stack, pytest.raises(ServiceMissing, match=r"no Kafka at .*HEADRACE_BROKERS"):
        kafka_for(own, {"brokers"}, tmp_path, stack, console)


def test_what_listens_but_is_no_kafka_is_named_and_not_replaced(tmp_path: Path, console: Console) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        own = settings(brokers=f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ServiceMissing, match="does not answer as Kafka"):
            kafka_for(own, set(), tmp_path, stack, console)


def test_a_kafka_that_answers_is_used(tmp_path: Path, console: Console) -> None:
    with EmbeddedBroker() as broker, ExitStack() as stack:
        own = settings(brokers=broker.address, embedded_broker_id="x")

        assert kafka_for(own, {"brokers"}, tmp_path, stack, console) == broker.address


@pytest.mark.redis
def test_a_redis_that_answers_is_used(tmp_path: Path, console: Console) -> None:
    redis_or_skip()
    with LocalRedis() as server, ExitStack() as stack:
        own = settings(redis_url=server.url)

        assert redis_for(own, {"redis_url"}, tmp_path, stack, console) == server.url


def test_a_redis_that_was_asked_for_must_be_there(tmp_path: Path, console: Console) -> None:
    own = settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")

    with ExitStack() as stack, pytest.raises(ServiceMissing, match=r"no Redis at .*HEADRACE_REDIS_URL"):
        redis_for(own, {"redis_url"}, tmp_path, stack, console)


def test_an_empty_redis_url_means_without_one(tmp_path: Path, console: Console) -> None:
    with ExitStack() as stack:
        assert redis_for(settings(redis_url=""), {"redis_url"}, tmp_path, stack, console) is None


@pytest.mark.redis
def test_a_redis_of_our_own_is_started_where_nobody_asked_for_another(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_or_skip()
    port = free_port()
    monkeypatch.setattr(services, "REDIS_PORT", port)
    own = settings(redis_url=f"redis://127.0.0.1:{port}/0")

    with ExitStack() as stack:
        assert redis_for(own, set(), tmp_path, stack, console) == f"redis://127.0.0.1:{port}/0"
        assert redis_for(own, {"redis_url"}, tmp_path, stack, console) == own.redis_url


def test_without_any_redis_server_the_roles_run_without(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(services, "REDIS_PORT", port)
    monkeypatch.setattr(services, "find_redis_server", lambda: None)

    with ExitStack() as stack:
        assert redis_for(settings(redis_url=f"redis://127.0.0.1:{port}/0"), set(), tmp_path, stack, console) is None
