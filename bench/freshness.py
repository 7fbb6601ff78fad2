"""`make bench-freshness`: from a source event to the first query that returns it, quiet and under load."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import click

from app.local.console import Console
from app.local.process import until_stopped
from bench.bare import encode
from bench.client import wait_applied
from bench.freshness_tables import freshness_notes, freshness_tables
from bench.load import Load, revised
from bench.meters import CpuMeter, quantiles
from bench.probe import Probe, Prober, Sample, probe_body
from bench.publish import publish, upsert
from bench.report import Report, Target, redis_version
from bench.stack import Roles, Stack, check_installed
from bench.stages import spent_ms, stage_times
from bench.texts import Cutter, Reader, described
from producers.publisher import DocumentPublisher
from schemas.errors import HeadraceError

_CHARS = (60, 600)  # of a text: one chunk each
_DOCUMENTS = 1000  # that the load changes in turn
_PROBED_DOCUMENTS = 16
_PROBES_PER_S_UNDER_LOAD = 2.0
_RAMP_S = 5.0
_WITHIN_S = 300
_SWITCH_INTERVAL_S = 0.0005  # the threads of this process must not hold up each other's clock
_SHARES = {"half": 0.5, "nine tenths": 0.9}


@click.command()
@click.option("--quiet-seconds", default=90, show_default=True, type=click.IntRange(min=3), help="At 1 event/s.")
@click.option("--load-seconds", default=60, show_default=True, type=click.IntRange(min=3), help="At each other rate.")
@click.option("--burst", default=1500, show_default=True, type=click.IntRange(min=50), help="Changes for the capacity.")
@click.option("--name", default="freshness", show_default=True, help="Of the files in bench/results.")
def freshness(quiet_seconds: int, load_seconds: int, burst: int, name: str) -> None:
    """Measure freshness on a Kafka and a Redis of its own."""
    check_installed()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    console = Console()
    report = Report(name, "Freshness: source event → first query that returns it", "make bench-freshness", sys.argv[1:])
    try:
        with until_stopped(), ExitStack() as exits:
            stack = exits.enter_context(Stack(console))
            FreshnessRun(stack, console, report).run(quiet_seconds, load_seconds, burst)
            exits.close()
            console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


class FreshnessRun:
    """One run; results go into the report."""

    def __init__(self, stack: Stack, console: Console, report: Report) -> None:
        self._stack = stack
        self._console = console
        self._report = report
        self._revision = 1
        self._phases: dict[str, dict[str, Any]] = {}
        self._samples: dict[str, list[Sample]] = {}
        report.redis = redis_version(stack.redis_program)

    def run(self, quiet_seconds: int, load_seconds: int, burst: int) -> None:
        """Capacity, then each rate."""
        reader = Reader()
        texts = [item.text for item in reader.documents(_DOCUMENTS, _CHARS)]
        documents = [(f"doc-{n}", text) for n, text in enumerate(texts)]
        self._report.sizes = Cutter(self._stack.settings).describe([revised(text, 1) for text in texts])
        self._console.step(described(self._report.sizes))
        counts = {"quiet": quiet_seconds, **dict.fromkeys(_SHARES, int(load_seconds * _PROBES_PER_S_UNDER_LOAD))}
        probes = self._probes(reader, sum(counts.values()))
        with (
            self._stack.roles() as roles,
            DocumentPublisher(roles.settings) as publisher,
        ):
            publisher.connect()
            capacity = self._capacity(roles, publisher, documents, burst)
            prober = Prober(publisher, roles.gateway)
            for name, count in counts.items():
                rate = capacity * _SHARES[name] if name in _SHARES else 1.0
                own, probes = probes[:count], probes[count:]
                self._phase(name, roles, prober, own, rate, documents)
            alone = {
                f"{pause_ms} ms apart": quantiles(prober.queries(own * 2, pause_ms / 1000)) for pause_ms in (0, 20)
            }
        times = stage_times(self._stack.settings, "probe-")
        for name, samples in self._samples.items():
            self._phases[name]["spent_ms"] = spent_ms(samples, times)
        self._conclude(capacity, alone)

    def _probes(self, reader: Reader, count: int) -> list[Probe]:
        texts = [item.text for item in reader.documents(count, _CHARS)]
        self._console.step(f"embedding the texts of {len(texts)} probes ahead of time")
        vectors = encode("auto", {"probes": texts}, self._stack.folder).vectors["probes"]
        return [
            Probe(f"probe-{n % _PROBED_DOCUMENTS}", n + 1, text, probe_body(vector.tolist()))
            for n, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]

    def _capacity(
        self, roles: Roles, publisher: DocumentPublisher, documents: Sequence[tuple[str, str]], burst: int
    ) -> float:
        """Changes per second of a burst, each of a text that is in no cache, after one that warms up."""
        rate = 0.0
        for count in (min(200, burst), burst):
            self._console.step(f"a burst of {count:,} changes" + ("" if rate else ", to warm up"))
            texts = [documents[n % len(documents)] for n in range(count)]
            changes = [upsert(key, revised(text, self._revision + n)) for n, (key, text) in enumerate(texts)]
            self._revision += count
            published = publish(publisher, changes)
            rate = count / (wait_applied(roles.gateway, published.offsets, _WITHIN_S, roles.check) - published.began)
        self._console.step(f"  capacity: {rate:.0f} changes/s")
        time.sleep(2)
        return rate

    def _phase(
        self,
        name: str,
        roles: Roles,
        prober: Prober,
        probes: Sequence[Probe],
        rate: float,
        documents: Sequence[tuple[str, str]],
    ) -> None:
        """rate: of all events, those of the probes among them."""
        per_second = min(rate, _PROBES_PER_S_UNDER_LOAD) if name in _SHARES else 1.0
        self._console.step(f"{name}: {rate:.1f} events/s for {len(probes) / per_second:.0f} s, {len(probes)} probes")
        background = rate - per_second
        loaded = background > 0
        load = Load(roles.environment, background, documents, self._revision, self._stack.folder) if loaded else None
        with load or nullcontext():
            time.sleep(_RAMP_S if load else 0)
            meter = CpuMeter({**self._stack.pids(), **roles.children.pids()})
            samples = prober.run(probes, per_second)
            cores = meter.cores()
        caught_up_s = 0.0
        if load is not None:
            self._revision += load.sent["sent"]
            began = time.monotonic()
            caught_up_s = wait_applied(roles.gateway, load.offsets, _WITHIN_S, roles.check) - began
        roles.check()
        self._samples[name] = samples
        self._phases[name] = _figures(samples) | {
            "events_per_second": per_second + (load.sent["per_second"] if load else 0.0),
            "caught_up_after_s": caught_up_s,
            "cores": cores,
            "load": load.sent if load else None,
        }
        p50, p99 = (self._phases[name]["freshness_ms"][key] for key in ("p50", "p99"))
        self._console.step(f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        time.sleep(2)

    def _conclude(self, capacity: float, alone: dict[str, Any]) -> None:
        self._report.figures = {"capacity_per_second": capacity, "phases": self._phases, "query_alone_ms": alone}
        self._report.tables += freshness_tables(capacity, self._phases, alone)
        quiet, half = self._phases["quiet"], self._phases["half"]
        for what, phase, key, wanted_ms in (
            ("quiet, p50", quiet, "p50", 30),
            ("quiet, p99", quiet, "p99", 80),
            ("half of the capacity, p99", half, "p99", 300),
        ):
            value = phase["freshness_ms"][key]
            met = value <= wanted_ms and not phase["lost"]
            self._report.targets.append(Target(what, f"≤ {wanted_ms} ms", f"{value:.1f} ms", met))
        self._report.notes += freshness_notes(self._report.sizes, self._phases)


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    found = [sample for sample in samples if sample.freshness_ms is not None]
    return {
        "freshness_ms": quantiles([sample.freshness_ms for sample in found if sample.freshness_ms is not None]),
        "own_ms": quantiles([sample.own_ms for sample in found if sample.own_ms is not None]),
        "query_ms": quantiles([took for sample in samples for took in sample.query_ms]),
        "lost": len(samples) - len(found),
    }


if __name__ == "__main__":
    freshness()
