"""Everything a benchmark measures: a real Kafka, a real Redis, the topics, and the three roles as processes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from app.kafka.topics import TopicAdmin, topic_plans
from app.local.children import Children
from app.local.console import Console
from app.local.kafka import LocalKafka, prepare
from app.local.probe import get_json, request
from app.local.process import headrace_command
from app.local.redis import INSTALL, LocalRedis, find_redis_server
from app.local.roles import environment_of, gateway_url, index_url, roles, with_ports
from app.settings import PREFIX, Settings, load_settings
from schemas.errors import ServiceMissing

READY_WITHIN_S = 120
STOP_WITHIN_S = 30  # a worker that is killed before it left its group holds up the next one for the session timeout
_ROLES = ("embed", "index", "search")

# Whatever the environment or .env says about a cluster is not about this one; model and limits stay as they say.
_OWN: dict[str, Any] = {
    "collection": "bench",
    "replication_factor": 1,
    "kafka_security_protocol": "PLAINTEXT",
    "kafka_sasl_mechanism": "PLAIN",
    "kafka_sasl_username": None,
    "kafka_sasl_password": None,
    "embedded_broker_id": None,
    "redis_password": None,
    "embed_host": "127.0.0.1",
    "index_host": "127.0.0.1",
    "host": "127.0.0.1",
    "index_url": None,
    "index_urls": (),
    "otlp_endpoint": None,
    "log_level": "warning",
}


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles while they run. environment: what a client needs to reach the same Kafka and collection."""

    settings: Settings
    children: Children
    environment: dict[str, str]

    @property
    def gateway(self) -> str:
        """URL of the gateway."""
        return gateway_url(self.settings)

    def check(self) -> None:
        """Raises ServiceMissing if a role has ended: there is nothing to measure any more."""
        if missing := set(_ROLES) - set(self.children.pids()):
            raise ServiceMissing(f"{', '.join(sorted(missing))} ended; the lines above may say why")

    def shards(self) -> list[dict[str, Any]]:
        """Every shard as the index worker describes it: documents, chunks, buffered and more."""
        found = get_json(index_url(self.settings) + "/shards")
        return list(found["shards"]) if found else []

    def embed_metrics(self) -> dict[str, float]:
        """The embed worker's metrics by name with labels, as in the text format."""
        answer = request("GET", f"http://127.0.0.1:{self.settings.embed_port}/metrics", timeout_s=10)
        lines = (answer[1].decode() if answer else "").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


class Stack:
    """Kafka, Redis and the topics in a temporary folder, for the length of a `with`; `roles` starts the workers.

    Everything is ended by its own handle; the kernel ends what is left if this process is killed. kafka, redis: for
    benchmarks that kill them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stack = ExitStack()
        self._runs = 0

    def __enter__(self) -> Stack:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pids(self) -> dict[str, int]:
        """The processes of the services."""
        found = {"kafka": self.kafka.pid, "redis": self.redis.pid}
        return {name: pid for name, pid in found.items() if pid is not None}

    @property
    def redis_program(self) -> Path:
        """The Redis server that runs."""
        return self.redis.program

    @contextmanager
    def roles(self, **overrides: Any) -> Iterator[Roles]:
        """Start embed, index and search, wait until they are ready, stop them in the end. overrides: settings."""
        self._runs += 1
        settings = with_ports(self.settings.model_copy(update={**overrides, **dict.fromkeys(_PORTS, 0)}))
        names = ("brokers", "redis_url", "data_dir", *_OWN, *overrides)
        environment = environment_of({name: getattr(settings, name) for name in names if name != "index_urls"})
        children = Children(self.folder / "logs" / str(self._runs), self._console)
        try:
            for role in roles(settings, environment):
                children.start(role)
            children.wait_ready(READY_WITHIN_S)
            self._console.step("embed, index and search are ready")
            yield Roles(settings, children, environment)
        finally:
            children.stop(STOP_WITHIN_S)

    def _start(self, stack: ExitStack) -> None:
        program = find_redis_server("system")
        if program is None:
            raise ServiceMissing(f"no Redis server on this machine: {INSTALL}")
        home = prepare(self._console.step)
        self.folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-", ignore_cleanup_errors=True))
        )
        self.kafka = stack.enter_context(LocalKafka(self.folder / "kafka", heap_mb=512, home=home))
        self.redis = stack.enter_context(LocalRedis(program=program))
        own = {"brokers": self.kafka.address, "redis_url": self.redis.url, "data_dir": self.folder / "data"}
        self.settings = load_settings().model_copy(update={**_OWN, **own})
        TopicAdmin(self.settings).create(topic_plans(self.settings))
        self._console.step("Kafka and Redis are ready")


_PORTS = ("embed_port", "index_port", "port")


def check_installed() -> None:
    """Fail early where the roles could not be started."""
    if not Path(headrace_command("embed")[0]).exists():
        sys.exit("bench: run it with the Python of an environment that Headrace is installed in")


def settings_given() -> dict[str, str]:
    """Settings from the environment that a benchmark leaves as they are; belongs in the report."""
    hidden = {PREFIX + name.upper() for name in (*_OWN, *_PORTS, "brokers", "redis_url", "data_dir")}
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX) and name not in hidden}
