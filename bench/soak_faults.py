"""The faults: what is broken, for how long, and in which order, follows from the seed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import redis

from bench.soak_cluster import KINDS, SESSION_TIMEOUT_MS, Cluster

Kind = Literal[
    "kill", "pause", "zombie", "sigterm", "kafka-kill", "cut-kafka", "cut-redis",
    "redis-flush", "redis-kill", "redis-empty",
]  # fmt: skip
FAULTS: tuple[Kind, ...] = get_args(Kind)
_WEIGHTS: dict[Kind, float] = {
    "kill": 6, "pause": 3, "zombie": 4, "sigterm": 3, "kafka-kill": 1.5, "cut-kafka": 4, "cut-redis": 3,
    "redis-flush": 2, "redis-kill": 2, "redis-empty": 1,
}  # fmt: skip
_STOPS_WITHIN_S = 30.0
_SESSION_S = SESSION_TIMEOUT_MS / 1000
_RECENT_S = 30.0
_Steps = Generator[None, None, None]


@dataclass(frozen=True, slots=True)
class Fault:
    """after_s: since the last one began. target: a role, "kafka" or "redis". hold_s: until it is mended begins.

    silent: of a cut, see Link.cut.
    """

    after_s: float
    kind: Kind
    target: str
    hold_s: float
    silent: bool = False

    def __str__(self) -> str:
        what = "silent " if self.silent else ""
        return f"{what}{self.kind} of {self.target} for {self.hold_s:.1f} s"


def fault_plan(seed: int, every_s: float) -> Iterator[Fault]:
    """Faults for ever, `every_s` apart in the mean. The first ten are one of every kind, in any order."""
    source = random.Random(f"faults {seed}")
    first = list(FAULTS)
    source.shuffle(first)
    for kind in first:
        yield _fault(source, kind, every_s)
    while True:
        yield _fault(source, source.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0], every_s)


def _fault(source: random.Random, kind: Kind, every_s: float) -> Fault:
    after_s = source.uniform(0.3, 1.7) * every_s
    names = [name for name, role in KINDS.items() if kind != "cut-kafka" or role != "search"]
    target = source.choice(names)
    hold_s = source.uniform(0, 4)
    silent = source.random() < 0.5
    if kind == "pause":
        hold_s = source.uniform(0.2, _SESSION_S * 0.7)
    elif kind == "zombie":
        hold_s = source.uniform(_SESSION_S + 1, _SESSION_S * 2.5)
        target = source.choice([name for name in names if name != "search"])
    elif kind in ("cut-kafka", "cut-redis"):
        hold_s = source.uniform(0.5, _SESSION_S * 2.5)
        return Fault(after_s, kind, target, hold_s, silent)
    elif kind.startswith(("kafka", "redis")):
        target = kind.partition("-")[0]
    return Fault(after_s, kind, target, hold_s)


class Chaos:
    """Applies a plan, a little with every `step`, which is called from the thread that starts processes.

    done: how many faults of each kind began. stuck: roles that had to be killed after SIGTERM. bad_exits: those
    that ended with another status than 0.
    """

    def __init__(self, cluster: Cluster, plan: Iterator[Fault], say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._plan = plan
        self._say = say
        self._next = next(plan)
        self._last = time.monotonic()
        self._running: list[tuple[Fault, _Steps]] = []
        self._recent: deque[tuple[float, Fault]] = deque(maxlen=100)
        self.done: Counter[str] = Counter()
        self.stuck: list[str] = []
        self.bad_exits: list[str] = []

    def step(self, *, begin: bool = True) -> bool:
        """Go on with what runs, and begin what is due, if its target is free. Returns whether any fault runs."""
        for item in list(self._running):
            fault, steps = item
            if next(steps, self) is self:
                self._running.remove(item)
                self._cluster.busy.discard(fault.target)
        if begin and time.monotonic() - self._last >= self._next.after_s and self._free(self._next):
            fault, self._next, self._last = self._next, next(self._plan), time.monotonic()
            self._cluster.busy.add(fault.target)
            self.done[fault.kind] += 1
            self._recent.append((self._last, fault))
            self._say(str(fault))
            self._running.append((fault, self._steps(fault)))
        return bool(self._running)

    def recent(self) -> list[str]:
        """The faults of the last half minute, each with its age. From any thread."""
        now = time.monotonic()
        return [f"{now - at:.1f} s ago: {fault}" for at, fault in tuple(self._recent) if now - at < _RECENT_S]

    def _free(self, fault: Fault) -> bool:
        role = self._cluster.roles.get(fault.target)
        return fault.target not in self._cluster.busy and (role is None or role.running)

    def _steps(self, fault: Fault) -> _Steps:
        if fault.kind in ("cut-kafka", "cut-redis"):
            return self._cut(fault)
        if fault.kind in ("pause", "zombie"):
            return self._pause(fault)
        if fault.kind in ("kill", "sigterm"):
            return self._kill(fault) if fault.kind == "kill" else self._sigterm(fault)
        return self._break_kafka(fault) if fault.target == "kafka" else self._break_redis(fault)

    def _cut(self, fault: Fault) -> _Steps:
        link = self._cluster.links[fault.target, fault.kind.removeprefix("cut-")]
        link.cut(silent=fault.silent)
        yield from _wait(fault.hold_s)
        link.mend()

    def _pause(self, fault: Fault) -> _Steps:
        role = self._cluster.roles[fault.target]
        role.send(signal.SIGSTOP)
        yield from _wait(fault.hold_s)
        role.send(signal.SIGCONT)

    def _kill(self, fault: Fault) -> _Steps:
        role = self._cluster.roles[fault.target]
        role.kill()
        yield from _wait(fault.hold_s)
        role.start()

    def _sigterm(self, fault: Fault) -> _Steps:
        role = self._cluster.roles[fault.target]
        role.terminate()
        deadline = time.monotonic() + _STOPS_WITHIN_S
        while role.running and time.monotonic() < deadline:
            yield
        if role.running:
            self.stuck.append(role.name)
            role.kill()
        elif role.status:
            self.bad_exits.append(f"{role.name} ended with status {role.status}: {role.words()[-300:]}")
        yield from _wait(fault.hold_s)
        role.start()

    def _break_kafka(self, fault: Fault) -> _Steps:
        self._cluster.kafka.kill()
        yield from _wait(fault.hold_s)
        self._cluster.kafka.start()

    def _break_redis(self, fault: Fault) -> _Steps:
        server = self._cluster.redis
        client = redis.Redis.from_url(server.url)
        try:
            if fault.kind == "redis-flush":
                client.flushall()
                return
            if fault.kind == "redis-kill":  # what comes back is a copy that is hold_s older, and a gap of as much
                client.save()
                yield from _wait(fault.hold_s)
        finally:
            client.close()
        server.kill()
        if fault.kind == "redis-empty":
            (self._cluster.redis_data / "dump.rdb").unlink(missing_ok=True)
        yield from _wait(fault.hold_s)
        server.start()


def _wait(seconds: float) -> _Steps:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
