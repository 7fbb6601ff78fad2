"""`make bench-staleness`: the freshness that answers report against what a prober of its own knows, fault by fault."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click
from confluent_kafka import Producer

from app.kafka.config import librdkafka_config
from app.local.console import Console
from app.local.process import until_stopped
from bench.client import wait_applied
from bench.load import Load, revised
from bench.publish import publish, upsert
from bench.report import Report, redis_version
from bench.stack import Stack, check_installed
from bench.staleness_cluster import SESSION_TIMEOUT_MS, StalenessCluster
from bench.staleness_prober import BETWEEN, StalenessProber
from bench.staleness_report import conclude
from bench.texts import Reader
from producers.publisher import DocumentPublisher
from schemas.errors import HeadraceError, ServiceMissing

_CHARS = (60, 600)  # of a text: one chunk each
_DOCUMENTS = 500
_WARM_UP = 100
_SWITCH_INTERVAL_S = 0.0005  # the threads of this process must not hold up each other's clock
_MARKERS_PER_S = 20.0  # a partition: between two of them nobody knows
_IDLE_MARKERS_PER_S = 0.3
_FLOWING_S = 1.0  # until markers come at the rate of the phase: what is broken then is not broken between two of them
_FRESH_MS = 250  # and what is by design: fresh again
_FRESH_WITHIN_S = 60.0
_WITHIN_S = 300
_SKEWED_EVERY_S = 0.1
_WORD = "zzhangs"


@click.command()
@click.option("--seconds", default=15.0, show_default=True, type=click.FloatRange(min=1), help="Of each quiet phase.")
@click.option("--broken-seconds", default=10.0, show_default=True, type=click.FloatRange(min=1), help="Of each fault.")
@click.option("--burst", default=600, show_default=True, type=click.IntRange(min=20), help="Changes for the capacity.")
@click.option("--skew-ms", default=0, show_default=True, help="One more phase: a producer's clock is so far ahead.")
@click.option("--only", multiple=True, help="Phases whose name holds one of these words; default: all.")
@click.option("--name", default="staleness", show_default=True, help="Of the files in bench/results.")
def staleness(
    seconds: float, broken_seconds: float, burst: int, skew_ms: int, only: tuple[str, ...], name: str
) -> None:
    """Measure on a Kafka and a Redis of its own, which are killed as well."""
    check_installed()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    console = Console()
    report = Report(name, "Staleness as reported and as it is", "make bench-staleness", sys.argv[1:])
    try:
        with until_stopped(), ExitStack() as exits:
            stack = exits.enter_context(Stack(console))
            report.redis = redis_version(stack.redis_program)
            cluster = exits.enter_context(StalenessCluster(stack))
            publisher = exits.enter_context(DocumentPublisher(cluster.settings))
            publisher.connect()
            run = StalenessRun(cluster, publisher, console, seconds, broken_seconds, skew_ms)
            run.run(burst, only)
            conclude(report, run.figures, run.findings, cluster.settings)
            exits.close()
            console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


class StalenessRun:
    """One run; `figures` and `findings` are what came out."""

    def __init__(
        self,
        cluster: StalenessCluster,
        publisher: DocumentPublisher,
        console: Console,
        seconds: float,
        broken_s: float,
        skew_ms: int,
    ) -> None:
        self.figures: dict[str, Any] = {}
        self.findings: list[str] = []
        self._cluster = cluster
        self._publisher = publisher
        self._console = console
        self._seconds = seconds
        self._broken_s = broken_s
        self._skew_ms = skew_ms
        self._interval_ms = cluster.settings.watermark_interval_ms
        self._documents = [
            (f"doc-{number}", item.text) for number, item in enumerate(Reader().documents(_DOCUMENTS, _CHARS))
        ]
        self._revision = 1
        self._again_s: dict[str, float] = {}

    def run(self, burst: int, only: tuple[str, ...]) -> None:
        """The capacity of the embed worker, then every phase."""
        capacity = self._capacity(burst)
        prober = StalenessProber(self._publisher, self._cluster.gateway, self._cluster.settings.partitions)
        with prober:
            self._prober = prober
            for name, phase in self._phases(capacity).items():
                if not only or any(word in name for word in only):
                    prober.check()
                    self._console.step(name)
                    phase(name)
            prober.begin(BETWEEN)
        prober.check()
        tallies = {name: tally.figures() for name, tally in prober.tallies.items() if tally.judged}
        self.figures = {
            "capacity_per_second": capacity,
            "phases": tallies,
            "fresh_again_after_s": self._again_s,
            "went_back": prober.went_back,
            "markers_per_partition_second": _MARKERS_PER_S,
            "session_timeout_ms": SESSION_TIMEOUT_MS,
        }
        self.findings = prober.findings

    def _phases(self, capacity: float) -> dict[str, Callable[[str], None]]:
        skewed = {"producer's clock ahead": lambda name: self._skew(name, capacity / 2)} if self._skew_ms else {}
        return skewed | {
            "idle": lambda name: self._quiet(name, _IDLE_MARKERS_PER_S, self._interval_ms),
            "markers only": lambda name: self._quiet(name, _MARKERS_PER_S),
            "half load": lambda name: self._quiet(name, _MARKERS_PER_S, load=capacity / 2),
            "full load": lambda name: self._quiet(name, _MARKERS_PER_S, load=capacity),
            "producer dead": lambda name: self._quiet(name, 0.0, self._interval_ms),
            "embed worker paused": self._pause,
            "embed worker killed": self._kill,
            "partitions stuck": self._hang,
            "rebalance": self._rebalance,
            "Redis killed": self._kill_redis,
            "Kafka killed": self._kill_kafka,
        }

    def _capacity(self, burst: int) -> float:
        rate = 0.0
        for count in (min(_WARM_UP, burst), burst):
            texts = [self._documents[number % _DOCUMENTS] for number in range(count)]
            changes = [upsert(id, revised(text, self._revision + number)) for number, (id, text) in enumerate(texts)]
            self._revision += count
            published = publish(self._publisher, changes)
            done = wait_applied(self._cluster.gateway, published.offsets, _WITHIN_S, self._check)
            rate = count / (done - published.began)
        self._console.step(f"capacity: {rate:.0f} changes/s")
        return rate

    def _quiet(self, name: str, markers_per_s: float, by_design_ms: float = 0.0, load: float = 0.0) -> None:
        """Nothing is broken."""
        with self._phase(name, markers_per_s, by_design_ms), self._load(load):
            time.sleep(self._seconds)

    def _skew(self, name: str, load: float) -> None:
        """Beside the load, a few changes whose timestamps lie ahead of the time at which they are written."""
        producer = Producer(librdkafka_config(self._cluster.settings, "bench-skew"))
        until = time.monotonic() + self._seconds
        with self._phase(name), self._load(load):
            while time.monotonic() < until:
                ahead_ms = time.time_ns() // 1_000_000 + self._skew_ms
                change = upsert(f"ahead-{ahead_ms % _DOCUMENTS}", f"A change of tomorrow, number {ahead_ms}.")
                producer.produce(self._cluster.settings.changes_topic, change.encode(), change.key, timestamp=ahead_ms)
                time.sleep(_SKEWED_EVERY_S)
            producer.flush(_WITHIN_S)

    @contextmanager
    def _load(self, rate: float) -> Iterator[None]:
        if not rate:
            yield
            return
        load = Load(self._cluster.environment, rate, self._documents, self._revision, self._cluster.stack.folder)
        with load:
            yield
        self._revision += load.sent["sent"]

    @contextmanager
    def _phase(self, name: str, markers_per_s: float = _MARKERS_PER_S, by_design_ms: float = 0.0) -> Iterator[None]:
        """Judge from before the block until every shard is fresh again after it."""
        self._prober.per_partition_s = markers_per_s
        time.sleep(_FLOWING_S)
        self._await_fresh(by_design_ms)
        self._prober.begin(name, by_design_ms)
        yield
        self._again_s[name] = self._await_fresh(by_design_ms)
        self._prober.begin(BETWEEN)
        self._console.step(f"  fresh after {self._again_s[name]:.1f} s")

    def _await_fresh(self, by_design_ms: float) -> float:
        began = time.monotonic()
        while not self._prober.fresh(by_design_ms + _FRESH_MS, began):
            self._prober.check()
            self._check()
            if time.monotonic() - began > _FRESH_WITHIN_S:
                raise ServiceMissing(f"not every shard was fresh again within {_FRESH_WITHIN_S:.0f} s")
            time.sleep(0.02)
        return time.monotonic() - began

    def _check(self) -> None:
        self._cluster.check("embed", "index", "search")

    def _pause(self, name: str) -> None:
        role = self._cluster.role("embed")
        with self._phase(name):
            role.send(signal.SIGSTOP)
            time.sleep(self._broken_s)  # longer than the session timeout: it wakes up as a zombie
            role.send(signal.SIGCONT)

    def _kill(self, name: str) -> None:
        with self._phase(name):
            self._cluster.role("embed").kill()
            time.sleep(self._broken_s / 2)
            self._cluster.start("embed")

    def _hang(self, name: str) -> None:
        """A second worker takes half of the partitions and hangs in its first model call; then it is killed."""
        ids = self._prober.ids("hangs")
        self._cluster.start_to_hang("second", _WORD)
        with self._phase(name):
            for id in ids.values():
                self._publisher.send(upsert(id, f"{_WORD} {time.monotonic_ns()}"), lambda *_: None)
            time.sleep(self._broken_s)
            self._cluster.role("second").kill()

    def _rebalance(self, name: str) -> None:
        with self._phase(name):
            self._cluster.start("second")
            time.sleep(self._broken_s / 2)
            self._cluster.stop("second")

    def _kill_redis(self, name: str) -> None:
        with self._phase(name):
            self._cluster.stack.redis.kill()
            time.sleep(self._broken_s)
            self._cluster.stack.redis.start()

    def _kill_kafka(self, name: str) -> None:
        with self._phase(name):
            self._cluster.stack.kafka.kill()
            time.sleep(self._broken_s)
            self._cluster.stack.kafka.start()


if __name__ == "__main__":
    staleness()
