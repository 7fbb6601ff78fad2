"""A random workload: what is published in which order follows from the seed alone, when it is from the rate."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

from app.kafka.producer import Position
from app.settings import Settings
from bench.soak_model import GARBAGE_HEADER, Change, Model
from producers.publisher import DocumentPublisher
from schemas.document_change import parse_change

# The broker is away for 10 s at most: an unconfirmed change is the exception that the log decides in the end.
_DELIVERY_TIMEOUT_MS = 60_000
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
_WEIGHTS = {"edit": 50, "create": 25, "delete": 12, "again": 8, "garbage": 3, "old": 4, "quick": 4, "burst": 0.4}


@dataclass(frozen=True, slots=True)
class Garbage:
    """An event that is no change."""

    key: bytes | None
    value: bytes | None


def word_of(number: int) -> str:
    """A word that only the texts of this document have."""
    return f"q{number:06}z"


def id_of(number: int) -> str:
    """Ids of several kinds: plain ones, with a slash, with blanks and letters beyond ASCII."""
    return f"döc {number}" if number % 17 == 0 else f"folder/doc-{number}" if number % 7 == 0 else f"doc-{number}"


def number_of(id: str) -> int:
    """The number that `id_of` made an id of."""
    return int(id.replace("-", " ").split()[-1])


class Workload:
    """An endless sequence of changes of at most `documents` documents.

    By their number: two in ten are never changed once they are there, two have versions, one has now and then a
    version, the others have none. versions: False for none at all.
    """

    def __init__(self, seed: int, documents: int, *, versions: bool = True) -> None:
        self._random = random.Random(f"workload {seed}")
        self._documents = documents
        self._versioned = versions
        self._count = 0
        self._rev = 0
        self._versions: dict[int, int] = {}
        self._last: dict[int, Change] = {}

    def __iter__(self) -> Iterator[list[Change | Garbage]]:
        """Each item is published without a pause inside."""
        while True:
            kind = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            yield self._step(kind)

    def _step(self, kind: str) -> list[Change | Garbage]:
        if kind == "burst":
            return [item for _ in range(self._random.randint(50, 250)) for item in self._step("edit")]
        number = self._pick()
        if number is None or (kind == "create" and self._count < self._documents):
            self._count += 1
            return [self._upsert(self._count - 1)]
        if kind == "quick":  # several changes of one document in one batch, a delete among them
            kinds = [self._random.choice(("edit", "edit", "delete")) for _ in range(self._random.randint(2, 6))]
            return [self._one(one, number) for one in kinds]
        return [self._one(kind, number)]

    def _one(self, kind: str, number: int) -> Change | Garbage:
        if kind == "garbage":
            return self._garbage(number)
        if kind == "delete":
            return self._delete(number)
        if kind == "again":
            return self._last[number]
        if kind == "old" and (top := self._versions.get(number)):
            return self._upsert(number, version=self._random.randrange(top))
        return self._upsert(number)

    def _pick(self) -> int | None:
        """A document that may be changed."""
        numbers = [number for number in range(self._count) if number % 10 > 1]
        return self._random.choice(numbers) if numbers else None

    def _upsert(self, number: int, version: int | None = None) -> Change:
        self._rev += 1
        sentences = self._random.choice((1, 1, 2, 3, 3, 5, 40))  # 40: several chunks
        words = [self._word() for _ in range(9 * sentences)]
        text = ". ".join(" ".join(words[at : at + 9]) for at in range(0, len(words), 9))
        version = self._version(number) if version is None else version
        title = f"Title {self._word()}" if self._random.random() < 0.3 else None
        metadata: dict[str, Any] = {"rev": self._rev, "number": number}
        change = Change(id_of(number), f"{word_of(number)} {text}.", title, metadata, version)
        self._last[number] = change
        return change

    def _delete(self, number: int) -> Change:
        version = self._version(number)
        change = Change(id_of(number), None, version=version, bare=version is None)
        self._last[number] = change
        return change

    def _version(self, number: int) -> int | None:
        """The next one, where the document has versions."""
        kind = number % 10
        if not self._versioned:
            return None
        if kind in (2, 3) or (kind == 4 and self._random.random() < 0.5):
            self._versions[number] = self._versions.get(number, 0) + self._random.randint(1, 3)
            return self._versions[number]
        return None

    def _garbage(self, number: int) -> Garbage:
        key = id_of(number).encode()
        return self._random.choice(
            (
                Garbage(key, b"not JSON"),
                Garbage(key, b'{"op": "upsert", "id": "another", "text": "of another key"}'),
                Garbage(key, b'{"op": "upsert"}'),
                Garbage(None, b'{"op": "upsert", "id": "no-key", "text": "without a key"}'),
                Garbage(b"\xff\xfe", b'{"op": "upsert", "id": "x", "text": "a key that is not UTF-8"}'),
            )
        )

    def _word(self) -> str:
        return "".join(self._random.choices(_SYLLABLES, k=self._random.randint(2, 3)))


class Loader:
    """Publishes the workload from a thread of its own, from the entry of a `with` to `finish`.

    rate: changes a second in the mean; gaps are random. A change is not waited for: its report settles the model.
    """

    def __init__(self, settings: Settings, model: Model, workload: Workload, rate: float, seed: int) -> None:
        self._settings = settings
        self._model = model
        self._workload = workload
        self._rate = rate
        self._random = random.Random(f"gaps {seed}")
        self._stop = threading.Event()
        self._publisher = DocumentPublisher(settings, delivery_timeout_ms=_DELIVERY_TIMEOUT_MS)
        self._raw = Producer(
            {
                "bootstrap.servers": settings.brokers,
                "log_level": 0,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": _DELIVERY_TIMEOUT_MS,
            }
        )
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Stop, and wait until every change is confirmed or given up. Kafka should answer."""
        self._stop.set()
        self._thread.join(_DELIVERY_TIMEOUT_MS / 1000)
        self._raw.flush(_DELIVERY_TIMEOUT_MS / 1000)
        self._publisher.close()

    def _run(self) -> None:
        try:
            due = time.monotonic()
            for items in self._workload:
                for item in items:
                    self._publish(item)
                self._raw.poll(0)
                due = max(due, time.monotonic() - 1) + self._random.expovariate(self._rate)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
        except BaseException as error:  # noqa: BLE001 the main thread raises it
            self.error = error

    def _publish(self, item: Change | Garbage) -> None:
        if isinstance(item, Garbage):
            self._raw.produce(
                self._settings.changes_topic,
                item.value,
                item.key,
                headers=[(GARBAGE_HEADER, b"1")],
                on_delivery=lambda error, message: (
                    None if error else self._model.garbage((message.partition(), message.offset()))
                ),
            )
            return
        self._model.issue(item)

        def delivered(position: Position | None, _: Exception | None) -> None:
            self._model.settle(item, None if position is None else (position.partition, position.offset))

        self._publisher.send(parse_change(_fields(item)), delivered)


def _fields(change: Change) -> dict[str, Any]:
    if change.text is None:
        return {"op": "delete", "id": change.id, "version": change.version}
    return {
        "id": change.id,
        "text": change.text,
        "title": change.title,
        "metadata": change.metadata or {},
        "version": change.version,
    }
