"""The roles as processes of the installed `headrace`, with a collection of their own: what end-to-end tests drive."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from app.kafka.topics import TopicAdmin, topic_plans
from app.local.role import Role
from app.settings import Settings
from producers import DocumentPublisher, Position, min_offsets

ROLES = ("embed", "index", "search")
READY_S = 60.0  # two busy cores; alone it takes 2 s
ANSWER_S = 30.0

Headers = list[tuple[str, bytes | None]]


class Stack:
    """The three roles of one collection; the folder must be new. Use it as a context manager.

    settings: of all roles, by name. The index worker can be had more than once: see `add_index`.
    """

    def __init__(self, folder: Path, brokers: str, redis_url: str | None, **settings: object) -> None:
        given: dict[str, object] = {
            "collection": f"c{uuid.uuid4().hex[:12]}",
            "brokers": brokers,
            "redis_url": redis_url,
            "partitions": 4,
            # a worker that was killed is missed after this long; by default after 30 s
            "session_timeout_ms": 3000,
            "watermark_interval_ms": 200,
            **settings,
        }
        self.folder = folder
        self.settings = Settings(_env_file=None, **given)
        self._given = given
        self._roles: dict[str, Role] = {}
        self._http = httpx.Client(trust_env=False, timeout=ANSWER_S)
        self._publisher: DocumentPublisher | None = None
        self.add_index("index", self.folder / "data")
        for name in ("embed", "search"):
            self._add(name, name, {})

    # --- roles

    def add_index(self, name: str, data_dir: Path, replica: str = "0") -> None:
        """One more index worker. Gateways without Redis have to be told of it: do it before they start."""
        self._add(name, "index", {"data_dir": data_dir, "replica": replica})

    def add_embed(self, name: str) -> None:
        """One more embed worker."""
        self._add(name, "embed", {})

    def add_search(self, name: str) -> None:
        """One more gateway; the stack's own questions go to the first."""
        self._add(name, "search", {})

    def role(self, name: str) -> Role:
        """One of the roles."""
        return self._roles[name]

    def start(self, *names: str) -> None:
        """Start roles, by default all, and wait until they are ready."""
        for name in names or tuple(self._roles):
            self.launch(name)
        self.wait_ready(*names)

    def launch(self, name: str) -> None:
        """Start one role, without waiting for it."""
        role = self._roles[name]
        if name == "search" and "index_urls" not in self._given and self.settings.redis_url is None:
            role.settings["index_urls"] = ",".join(self._roles[index].url for index in self._index_names())
        role.start()

    def stop(self, *names: str, within_s: float = 20) -> None:
        """SIGTERM to roles, by default all that run; each must end with status 0 in time."""
        roles = [self._roles[name] for name in names] or [role for role in self._roles.values() if role.running]
        deadline = time.monotonic() + within_s
        for role in roles:
            role.terminate()
        for role in roles:
            status = role.ended(deadline - time.monotonic())
            assert status == 0, f"{role.name} ended with status {status}"

    def kill(self, *names: str) -> None:
        """SIGKILL."""
        for name in names:
            self._roles[name].kill()

    def send(self, name: str, signal_number: int) -> None:
        """A signal to one role."""
        self._roles[name].send(signal_number)

    def restart(self, name: str) -> None:
        """Stop, start, wait until ready."""
        self.stop(name)
        self.start(name)

    def wait_ready(self, *names: str, within_s: float = READY_S) -> None:
        """Wait until /readyz of the roles, by default all, says so."""
        deadline = time.monotonic() + within_s
        for name in names or tuple(self._roles):
            role = self._roles[name]
            while (state := self.readyz(name))[0] != 200:
                assert role.running, f"{name} ended:\n{role.words()}"
                assert time.monotonic() < deadline, f"{name} is not ready within {within_s} s: {state}"
                time.sleep(0.05)

    def readyz(self, name: str) -> tuple[int, dict[str, Any]]:
        """Status and body of /readyz; status 0 where nothing answers."""
        try:
            response = self._http.get(self._roles[name].url + "/readyz")
        except httpx.TransportError:
            return 0, {}
        return response.status_code, response.json()

    def metrics(self, name: str) -> Mapping[str, float]:
        """Every sample by its name with labels as in the exposition; one that is not there yet is 0."""
        text = self._http.get(self._roles[name].url + "/metrics").text
        samples = _Samples()
        for line in text.splitlines():
            if not line.startswith("#"):
                sample, _, value = line.rpartition(" ")
                samples[sample] = float(value)
        return samples

    def model_chunks(self) -> float:
        """Chunks that the embed worker has had the model embed since its start."""
        return self.metrics("embed")['headrace_embed_chunks_total{source="model"}']

    def model_calls(self) -> float:
        """Calls of the model by the embed worker since its start."""
        return self.metrics("embed")["headrace_embed_model_calls_total"]

    # --- topics

    def create_topics(self) -> None:
        """Make the collection's topics; the embedded broker makes them itself."""
        if self.settings.embedded_broker_id is None:
            TopicAdmin(self.settings).create(topic_plans(self.settings))

    @property
    def publisher(self) -> DocumentPublisher:
        """Made at first use, closed with the stack."""
        if self._publisher is None:
            self._publisher = DocumentPublisher(self.settings, delivery_timeout_ms=60_000)
        return self._publisher

    def publish(self, id: str, text: str, **fields: Any) -> Position:
        """Publish a document and wait for the delivery report."""
        return self.publisher.upsert(id, text, **fields).result(ANSWER_S)

    def publish_all(self, texts: Mapping[str, str]) -> list[Position]:
        """Publish many documents and wait for all delivery reports."""
        futures = [self.publisher.upsert(id, text) for id, text in texts.items()]
        return [future.result(60) for future in futures]

    def delete(self, id: str, **fields: Any) -> Position:
        """Publish a delete: a null value where no version is given."""
        return self.publisher.delete(id, **fields).result(ANSWER_S)

    def produce(self, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> Position:
        """Write any bytes to the changes topic."""
        delivered: list[Message] = []
        producer = Producer({"bootstrap.servers": self.settings.brokers, "log_level": 0, "partitioner": "murmur2"})
        producer.produce(
            self.settings.changes_topic,
            value,
            key,
            headers=headers or [],
            on_delivery=lambda error, message: delivered.append(_checked(error, message)),
        )
        assert producer.flush(ANSWER_S) == 0
        (message,) = delivered
        return Position(message.topic(), message.partition(), message.offset())

    def dead_letters(self, count: int) -> list[Message]:
        """The first `count` records of the dead-letter topic."""
        with self._reading(self.settings.dlq_topic, 1 if self.settings.embedded_broker_id is None else 4) as consumer:
            found: list[Message] = []
            deadline = time.monotonic() + ANSWER_S
            while len(found) < count:
                assert time.monotonic() < deadline, f"{len(found)} of {count} dead letters"
                found += [message for message in consumer.consume(count, timeout=0.1) if message.error() is None]
            return found

    def rewind(self, group: str) -> None:
        """Make a consumer group, none of whose members runs, read all changes again."""
        partitions = [TopicPartition(self.settings.changes_topic, p, 0) for p in range(self.settings.partitions)]
        consumer = Consumer({"bootstrap.servers": self.settings.brokers, "group.id": group, "log_level": 0})
        try:
            committed = consumer.commit(offsets=partitions, asynchronous=False)
            assert all(item.error is None for item in committed)
        finally:
            consumer.close()

    # --- the public API

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self._roles["search"].url

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON body."""
        response = self._http.get(self.url + path)
        return response.status_code, response.json()

    def post(self, body: object, path: str = "/search") -> tuple[int, dict[str, Any]]:
        """Status and JSON body. A body of bytes goes as it is."""
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        wait_ms = body.get("timeout_ms") if isinstance(body, dict) else None
        waits_s = wait_ms / 1000 if isinstance(wait_ms, int) else 0
        response = self._http.post(self.url + path, **content, timeout=ANSWER_S + waits_s)
        return response.status_code, response.json()

    def search(self, query: str, after: Iterable[Position] | Position = (), **fields: Any) -> dict[str, Any]:
        """The answer to a search that waits until the changes at `after` are applied."""
        positions = [after] if isinstance(after, Position) else list(after)
        if positions:
            fields = {"min_offsets": min_offsets(positions), "timeout_ms": 30_000, **fields}
        status, answer = self.post({"query": query, **fields})
        assert status == 200, answer
        return answer

    def hits(self, query: str, after: Iterable[Position] | Position = (), **fields: Any) -> dict[str, dict[str, Any]]:
        """The hits of a whole answer, by id, best first; a document is there once."""
        answer = self.search(query, after, **fields)
        assert answer["partial"] is False, answer["missing_shards"]
        hits = {hit["id"]: hit for hit in answer["hits"]}
        assert len(hits) == len(answer["hits"])
        return hits

    def document(self, id: str) -> dict[str, Any] | None:
        """The stored document; None for 404."""
        status, body = self.get(f"/documents/{quote(id, safe='')}")
        assert status in (200, 404), body
        return body if status == 200 else None

    def status(self) -> dict[str, Any]:
        """GET /status."""
        status, body = self.get("/status")
        assert status == 200, body
        return body

    # --- the end

    def words(self) -> dict[str, str]:
        """The end of each role's log, for the report of a failed test."""
        return {name: role.words() for name, role in self._roles.items()}

    def close(self) -> None:
        """End everything, without asking."""
        self.kill(*self._roles)
        if self._publisher is not None:
            self._publisher.close(timeout_s=1)
        self._http.close()

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, name: str, kind: str, settings: Mapping[str, object]) -> None:
        self._roles[name] = Role(name, kind, self.folder, {**self._given, **settings})

    def _index_names(self) -> list[str]:
        return [name for name in self._roles if name.startswith("index")]

    @contextmanager
    def _reading(self, topic: str, partitions: int) -> Iterator[Consumer]:
        consumer = Consumer(
            {"bootstrap.servers": self.settings.brokers, "group.id": uuid.uuid4().hex, "log_level": 0}
            | {"fetch.wait.max.ms": 20}
        )
        try:
            consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
            yield consumer
        finally:
            consumer.close()


def unique(word: str) -> str:
    """The word with a suffix that no other test uses: ids, and texts that no cache knows."""
    return f"{word}{uuid.uuid4().hex[:8]}"


class _Samples(dict[str, float]):
    def __missing__(self, _: str) -> float:
        return 0.0


def _checked(error: object, message: Message) -> Message:
    assert error is None, error
    return message
