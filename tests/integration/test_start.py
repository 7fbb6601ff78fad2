"""A role that cannot start says in one line what is missing and what to do, and exits with status 1 soon."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from app.local.broker import EmbeddedBroker
from app.local.kafka import LocalKafka
from app.local.process import headrace_command
from app.local.role import role_environment
from tests.stack import unique

WITHIN_S = 45  # 10 s of waiting for Kafka, and the start of Python on a busy machine
NOWHERE = "127.0.0.1:1"
NO_REDIS = f"redis://{NOWHERE}/0"


def fails(folder: Path, role: str, **settings: object) -> str:
    """Start a role that must fail; the one line in which it says why."""
    ended = subprocess.run(
        headrace_command(role),
        cwd=folder,
        env=role_environment({"runtime": "hashing", "embed_port": 0, "index_port": 0, "port": 0, **settings}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    line = ended.stderr.strip()
    assert line.startswith("headrace: ")
    return line


@pytest.mark.parametrize("role", ["embed", "index"])
def test_without_kafka(tmp_path: Path, role: str) -> None:
    line = fails(tmp_path, role, brokers=NOWHERE, redis_url=None)

    assert line.startswith(f"headrace: no Kafka at {NOWHERE} (HEADRACE_BROKERS): ")
    assert line.endswith("Start one, or run `headrace up`.")


@pytest.mark.parametrize("role", ["embed", "serve"])
def test_without_the_redis_of_the_settings(tmp_path: Path, embedded_broker: EmbeddedBroker, role: str) -> None:
    line = fails(tmp_path, role, brokers=embedded_broker.address, redis_url=NO_REDIS, embedded_broker_id="test")

    assert line.startswith(f"headrace: no Redis at {NO_REDIS} (HEADRACE_REDIS_URL): ")
    assert "set HEADRACE_REDIS_URL= (empty) to run without" in line


@pytest.mark.kafka
def test_without_topics(tmp_path: Path, shared_kafka: LocalKafka) -> None:
    collection = unique("missing")

    line = fails(tmp_path, "index", brokers=shared_kafka.address, redis_url=None, collection=collection)

    assert line.startswith(f"headrace: topic {collection}.changes does not exist; ")
    assert line.endswith(f"Run: headrace topics create --collection {collection} --brokers {shared_kafka.address}")


def test_without_the_model(tmp_path: Path, embedded_broker: EmbeddedBroker) -> None:
    line = fails(
        tmp_path,
        "embed",
        brokers=embedded_broker.address,
        redis_url=None,
        embedded_broker_id="test",
        index_urls=f"http://{NOWHERE}",
        runtime="auto",
        model="nobody/no-such-model",
    )

    assert "nobody/no-such-model" in line


def test_a_gateway_that_could_find_no_index_worker(tmp_path: Path) -> None:
    line = fails(tmp_path, "serve", redis_url=None)

    assert line == "headrace: without Redis the gateway needs HEADRACE_INDEX_URLS, e.g. http://127.0.0.1:8081"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails(tmp_path, "serve", redis_url=None, index_urls=f"http://{NOWHERE}", port=port)

    assert line == (
        f"headrace: the gateway cannot listen on 127.0.0.1:{port}: Address already in use. Choose another port."
    )


def test_a_wrong_setting(tmp_path: Path) -> None:
    line = fails(tmp_path, "embed", max_chunk_tokens="many")

    assert line.startswith("headrace: HEADRACE_MAX_CHUNK_TOKENS (environment): ")
