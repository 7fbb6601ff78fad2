"""What the workers use of Faust, without Kafka: an app that takes their agent and hooks, and a consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

from app.event import Event
from consumers.unreadable import UnreadableRecords


class TP(NamedTuple):
    partition: int


class Signal:
    def __init__(self) -> None:
        self.hook: Any = None

    def connect(self, hook: Any) -> None:
        self.hook = hook


class FakeConsumer:
    """commits: how often. end: by partition. unled: partitions that no broker leads."""

    def __init__(self, *partitions: int) -> None:
        self.partitions = set(partitions)
        self.start_offsets = dict.fromkeys(partitions, 0)
        self.end = dict.fromkeys(partitions, 0)
        self.commits = 0
        self.unled: frozenset[TP] = frozenset()
        self.lease = SimpleNamespace(holds=True)
        self.unreadable = UnreadableRecords()

    def assignment(self) -> set[TP]:
        return {TP(partition) for partition in self.partitions}

    def leaderless(self, _: Iterable[TP]) -> frozenset[TP]:
        return self.unled

    async def commit_within(self, seconds: float) -> bool:
        self.commits += 1
        return True

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, 0)

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        return {tp: self.end[tp.partition] for tp in tps}


class FakeFaust:
    """The app."""

    def __init__(self, *partitions: int) -> None:
        self.consumer = self._consumer = FakeConsumer(*partitions)
        self.started, self.rebalancing = True, False
        self.consumer_generation_id = 1
        self.on_partitions_assigned, self.on_partitions_revoked = Signal(), Signal()
        self.on_rebalance_complete = Signal()
        self.take_in: Any = None
        self.agents: list[dict[str, Any]] = []
        self.worker: Any = None

    def topic(self, name: str, **options: Any) -> Any:
        return SimpleNamespace(name=name, **options)

    def agent(self, topic: Any, **options: Any) -> Callable[[Any], None]:
        self.agents.append({"topic": topic} | options)

        def take(function: Any) -> None:
            self.take_in = function

        return take


class Stream:
    """Gives messages, and remembers what was acknowledged."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self.acked: list[tuple[int, int]] = []
        self.without_acks = False

    def noack(self) -> Stream:
        self.without_acks = True
        return self

    async def events(self) -> Any:
        for item in self._events:
            message = SimpleNamespace(**item._asdict() | {"timestamp": item.timestamp_ms / 1000})
            message.generation_id = item.generation
            yield SimpleNamespace(message=message)
        await asyncio.Event().wait()

    async def ack(self, event: Any) -> None:
        self.acked.append((event.message.partition, event.message.offset))


async def until(predicate: Callable[[], object], within_s: float = 5) -> None:
    """Let the loop go on until it is true."""
    async with asyncio.timeout(within_s):
        while not predicate():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)
