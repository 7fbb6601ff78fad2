"""Local services for tests, and waiting for an outcome."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import psutil
import pytest

from app.local.jaeger import INSTALL, find_jaeger
from app.local.kafka import prepare
from app.local.kafka_home import KafkaHome
from app.local.redis import find_redis_server
from schemas.errors import ServiceMissing
from tests.services import need


def kafka_or_skip() -> KafkaHome:
    """A Kafka to start; the first call on a machine fetches it."""
    try:
        return prepare()
    except ServiceMissing as error:
        need(available=False, what=str(error))
        raise


def redis_or_skip() -> None:
    """Skip or fail where there is no Redis server program."""
    need(find_redis_server("system") is not None, "no Redis server: apt-get install redis-server")


def jaeger_or_skip() -> None:
    """Skip where there is no Jaeger, even where services are required: building it takes minutes."""
    if find_jaeger() is None:
        pytest.skip(f"no Jaeger: {INSTALL}")


def chromium_or_skip() -> str:
    """Path of a Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    need(found is not None, "no Chromium: apt-get install chromium")
    assert found is not None
    return found


def eventually(predicate: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until the predicate is true; fail the test if it does not become so."""
    deadline = time.monotonic() + within_s
    while not predicate():
        assert time.monotonic() < deadline, f"not true within {within_s} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
