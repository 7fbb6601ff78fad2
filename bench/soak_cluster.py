"""What the soak breaks: a Kafka, a Redis, two embed workers, two replicas of two index workers each, a gateway."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from app.kafka.config import librdkafka_config
from app.kafka.topics import TopicAdmin, topic_plans
from app.local.kafka import LocalKafka
from app.local.kafka_home import KafkaHome
from app.local.process import free_port
from app.local.redis import LocalRedis
from app.local.role import Role
from app.settings import Settings
from bench.soak_links import Link, Links
from schemas.errors import ServiceMissing

SESSION_TIMEOUT_MS = 4000
REPLICAS = ("a", "b")
KINDS = {
    **{f"embed-{n}": "embed" for n in range(2)},
    **{f"index-{replica}{n}": "index" for replica in REPLICAS for n in range(2)},
    "search": "search",
}
_PARTITIONS = 4
_RESTART_AFTER_S = 1.0  # a role that ended by itself, as a supervisor would
_READY_WITHIN_S = 120.0
_SEGMENT_MS = 10_000  # compaction of .vectors keeps up with the soak: a rebuild sees what compaction left


@dataclass(frozen=True, slots=True)
class Death:
    """A role that ended although nobody ended it."""

    at_s: float
    role: str
    status: int
    word: str


class Cluster:
    """Everything as processes on loopback; use it as a context manager, then `start`. settings: of every role."""

    def __init__(self, folder: Path, home: KafkaHome, redis_program: Path, **settings: Any) -> None:
        self.folder = folder
        self.redis_data = folder / "redis"
        self.redis = LocalRedis(self.redis_data, program=redis_program)
        self.links: dict[tuple[str, str], Link] = {}
        self.roles: dict[str, Role] = {}
        self.busy: set[str] = set()  # what a fault has hold of: not started again meanwhile
        self.deaths: list[Death] = []
        self._home = home
        self._settings = settings
        self._exits = ExitStack()
        self._ended_at: dict[str, float] = {}
        self._began = time.monotonic()
        self.http = httpx.Client(trust_env=False, timeout=10)

    def __enter__(self) -> Cluster:
        with ExitStack() as exits:
            exits.callback(self.http.close)
            links = exits.enter_context(Links())
            self._start_services(exits, links)
            for name, kind in KINDS.items():
                self._add(name, kind, links)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for role in self.roles.values():
            role.kill()
        self._exits.close()

    def start(self) -> None:
        """Start all roles and wait until they are ready."""
        for role in self.roles.values():
            role.start()
        self.wait_ready()

    def tend(self) -> None:
        """Start again what ended by itself. Call it often, from the thread that started the roles."""
        now = time.monotonic()
        for name, role in self.roles.items():
            if name in self.busy or role.status is None:
                self._ended_at.pop(name, None)
            elif name not in self._ended_at:
                self._ended_at[name] = now
                lines = role.words().splitlines()
                self.deaths.append(Death(now - self._began, name, role.status, lines[-1] if lines else ""))
            elif now - self._ended_at[name] > _RESTART_AFTER_S:
                role.start()

    def wait_ready(self) -> None:
        """Wait until every role is. Raises ServiceMissing, with what is missing."""
        deadline = time.monotonic() + _READY_WITHIN_S
        for name, role in self.roles.items():
            while missing := self._missing(role):
                if time.monotonic() > deadline:
                    raise ServiceMissing(f"{name} is not ready after {_READY_WITHIN_S:.0f} s: {missing}")
                self.tend()
                time.sleep(0.1)

    def index_roles(self, replica: str) -> list[Role]:
        """The index workers of a replica."""
        return [role for name, role in self.roles.items() if name.startswith(f"index-{replica}")]

    def data_dir(self, name: str) -> Path:
        """Of an index worker; each has a disk of its own."""
        return self.folder / "data" / name

    def _missing(self, role: Role) -> str:
        try:
            answer = self.http.get(role.url + "/readyz", timeout=2)
        except httpx.HTTPError as error:
            return type(error).__name__
        return "" if answer.status_code == 200 else answer.text

    def _start_services(self, exits: ExitStack, links: Links) -> None:
        inner = {name: free_port() for name, kind in KINDS.items() if kind != "search"}
        for name, port in inner.items():
            self.links[name, "kafka"] = links.add(port)
        doors = {port: self.links[name, "kafka"].port for name, port in inner.items()}
        self.kafka = exits.enter_context(LocalKafka(self.folder / "kafka", heap_mb=512, home=self._home, doors=doors))
        exits.enter_context(self.redis)
        self.settings = Settings(
            _env_file=None,
            collection="soak",
            brokers=self.kafka.address,
            redis_url=self.redis.url,
            partitions=_PARTITIONS,
            **self._settings,
        )
        TopicAdmin(self.settings).create(topic_plans(self.settings))
        eager = {"segment.ms": _SEGMENT_MS, "min.cleanable.dirty.ratio": 0.01, "min.compaction.lag.ms": 0}
        self._configure(self.settings.vectors_topic, eager)
        self._configure(self.settings.changes_topic, {"min.compaction.lag.ms": 2**62})  # the truth stays whole

    def _configure(self, topic: str, values: dict[str, object]) -> None:
        entries = [
            ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET) for name, value in values.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        admin = AdminClient(librdkafka_config(self.settings, "soak"))
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(10)

    def _add(self, name: str, kind: str, links: Links) -> None:
        redis = self.links[name, "redis"] = links.add(self.redis.port)
        kafka = self.links.get((name, "kafka"))
        settings: dict[str, object] = {
            **self._settings,
            "collection": "soak",
            "partitions": _PARTITIONS,
            "brokers": f"127.0.0.1:{kafka.port}" if kafka else self.kafka.address,
            "redis_url": f"redis://127.0.0.1:{redis.port}/0",
            "session_timeout_ms": SESSION_TIMEOUT_MS,
            "watermark_interval_ms": 200,
        }
        if kind == "index":
            settings |= {"replica": name.removeprefix("index-")[0], "data_dir": self.data_dir(name)}
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        self.roles[name] = Role(name, kind, logs, settings)
