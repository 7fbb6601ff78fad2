"""What must be true, known without the product: every change that was published, folded by the documented order."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Consumer, Message, TopicPartition

from schemas.errors import ServiceMissing

GARBAGE_HEADER = "soak-garbage"  # on events that can be no change; the product does not know it
_READ_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Change:
    """One change as it was published. text None: a delete. bare: a null value."""

    id: str
    text: str | None
    title: str | None = None
    metadata: dict[str, Any] | None = None
    version: int | None = None
    bare: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What a document is. change None: it does not exist. floor: the version that later changes are compared with."""

    change: Change | None
    floor: int | None
    offset: int

    @property
    def rev(self) -> int | None:
        """The number of the text; None: there is none."""
        return None if self.change is None else (self.change.metadata or {}).get("rev")


@dataclass(frozen=True, slots=True)
class View:
    """A document at one moment. settled: no change of it is under way or of unknown fate."""

    state: State
    partition: int
    offset: int
    generation: int
    settled: bool


def fold(held: State | None, change: Change, offset: int) -> State:
    """The state after one more change, in the order of offsets. docs/formats.md, "Order", said once more."""
    floor = held.floor if held else None
    if change.version is not None:
        if floor is not None and change.version < floor:
            assert held is not None
            return State(held.change, floor, offset)
        floor = change.version
    return State(None if change.text is None else change, floor, offset)


class Model:
    """Documents by delivery reports, while the soak runs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, State] = {}
        self._partitions: dict[str, int] = {}
        self._pending: defaultdict[str, int] = defaultdict(int)
        self._generation: defaultdict[str, int] = defaultdict(int)
        self._uncertain: set[str] = set()
        self.confirmed: dict[tuple[int, int], Change | None] = {}
        self.unconfirmed = 0
        self.issued = 0

    def issue(self, change: Change) -> None:
        """About to be published: from now on either state may be seen."""
        with self._lock:
            self.issued += 1
            self._pending[change.id] += 1
            self._generation[change.id] += 1

    def settle(self, change: Change, place: tuple[int, int] | None) -> None:
        """Its delivery report: partition and offset, or None where it failed and may be in the log or not."""
        with self._lock:
            self._pending[change.id] -= 1
            if place is None:
                self.unconfirmed += 1
                self._uncertain.add(change.id)
                return
            self.confirmed[place] = change
            self._partitions[change.id] = place[0]
            self._states[change.id] = fold(self._states.get(change.id), change, place[1])

    def garbage(self, place: tuple[int, int]) -> None:
        """An event that must become a dead letter."""
        with self._lock:
            self.issued += 1
            self.confirmed[place] = None

    def view(self, id: str) -> View | None:
        """The document now; None before its first confirmation."""
        with self._lock:
            state = self._states.get(id)
            if state is None:
                return None
            settled = not self._pending[id] and id not in self._uncertain
            return View(state, self._partitions[id], state.offset, self._generation[id], settled)

    def ids(self) -> list[str]:
        """Documents with a confirmed change."""
        with self._lock:
            return list(self._states)


@dataclass(slots=True)
class Truth:
    """The changes topic itself. states: by id. partitions: of ids. ends: next offset of each partition.

    unreported: changes without a delivery report that are there. disagreements: reports that the log does not bear out.
    """

    states: dict[str, State]
    partitions: dict[str, int]
    ends: dict[int, int]
    garbage: set[tuple[int, int]]
    unreported: int
    disagreements: list[str]

    def alive(self, partition: int) -> int:
        """How many documents of a partition exist."""
        return sum(self.partitions[id] == partition for id, state in self.states.items() if state.change is not None)

    def as_json(self) -> bytes:
        """For people, after a failure."""
        rows = {
            id: {"partition": self.partitions[id], "offset": state.offset, "floor": state.floor, "change": state.change}
            for id, state in sorted(self.states.items())
        }
        return orjson.dumps({"ends": {str(p): end for p, end in self.ends.items()}, "documents": rows}, option=2)


def read_truth(brokers: str, topic: str, partitions: int, model: Model) -> Truth:
    """Read the whole topic, and compare it with every delivery report. The topic must not have been compacted."""
    truth = Truth({}, {}, {}, set(), 0, [])
    seen: set[tuple[int, int]] = set()
    for partition in range(partitions):
        messages = read_partition(brokers, topic, partition)
        truth.ends[partition] = len(messages)  # without gaps: nothing is compacted, and there are no transactions
        for message in messages:
            seen.add((partition, message.offset()))
            _take(truth, model, message)
    truth.disagreements += [f"{place} was confirmed and is not in the log" for place in model.confirmed.keys() - seen]
    return truth


def read_partition(brokers: str, topic: str, partition: int) -> list[Message]:
    """Every record of a partition from offset 0 to its present end. Raises ServiceMissing if they do not come."""
    config = {"bootstrap.servers": brokers, "group.id": "soak-reader", "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer(config)
    found: list[Message] = []
    try:
        place = TopicPartition(topic, partition, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=_READ_WITHIN_S)
        consumer.assign([place])
        deadline = time.monotonic() + _READ_WITHIN_S
        while end > (found[-1].offset() + 1 if found else 0):
            if time.monotonic() > deadline:
                raise ServiceMissing(f"{topic} {partition} cannot be read to its end, {end}")
            found += [message for message in consumer.consume(1000, timeout=0.2) if message.error() is None]
    finally:
        consumer.close()
    return found


def _take(truth: Truth, model: Model, message: Message) -> None:
    place = (message.partition(), message.offset())
    if any(name == GARBAGE_HEADER for name, _ in message.headers() or ()):
        truth.garbage.add(place)
        return
    id = message.key().decode()
    change = _change(id, message.value())
    if place not in model.confirmed:
        truth.unreported += 1
    elif model.confirmed[place] != change:
        truth.disagreements.append(f"{place} holds {change}, reported was {model.confirmed[place]}")
    truth.partitions[id] = place[0]
    truth.states[id] = fold(truth.states.get(id), change, place[1])


def _change(id: str, value: bytes | None) -> Change:
    if value is None:
        return Change(id, None, bare=True)
    fields = orjson.loads(value)
    if fields["op"] == "delete":
        return Change(id, None, version=fields.get("version"))
    return Change(id, fields["text"], fields.get("title"), fields.get("metadata"), fields.get("version"))
