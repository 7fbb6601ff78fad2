"""`make bench-tracing`: what traces and probes cost: documents/s with none, the default, and all of them, by turns."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import click

from app.local.console import Console
from app.local.process import until_stopped
from app.observe.tracing import Tracing
from bench.client import wait_applied
from bench.collector import Collector
from bench.load import revised
from bench.meters import cpu_s
from bench.publish import publish, upsert
from bench.report import Report, Table, Target, redis_version
from bench.stack import Roles, Stack, check_installed
from bench.texts import Reader
from producers.publisher import DocumentPublisher
from schemas.errors import HeadraceError

OFF, DEFAULT, BACKLOG, ALL = "off", "one in 100", "one in 100 and all slow ones", "every document"
ONE_IN = {OFF: 0, DEFAULT: 100, BACKLOG: 100, ALL: 1}
_CHARS = (60, 600)  # of a text: one chunk each
_TEXTS = 1000
_WARM_UP = 200
_WITHIN_S = 300
_FIRST_EXPORT_S = 6.0  # spans go out every five seconds; the first ones start up what sends them
_SETTLE_S = 1.5  # commits, announcements and the spans of what was before
_NEVER_SLOW_MS = 3_600_000
_AIM_RATIO = 0.97
_MEASURED = ("embed", "index")


@click.command()
@click.option("--documents", default=1500, show_default=True, type=click.IntRange(min=10), help="A turn, real model.")
@click.option("--hashed", default=25_000, show_default=True, type=click.IntRange(min=10), help="A turn, hashing.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Turns of each.")
@click.option("--name", default="tracing", show_default=True, help="Of the files in bench/results.")
def tracing(documents: int, hashed: int, rounds: int, name: str) -> None:
    """Measure on a Kafka and a Redis of its own."""
    check_installed()
    console = Console()
    report = Report(name, "What traces and probes cost", "make bench-tracing", sys.argv[1:])
    workloads = {"the model": ("auto", documents), "hashing": ("hashing", hashed)}
    try:
        with until_stopped(), ExitStack() as exits:
            collector = exits.enter_context(Collector())
            turns: dict[str, list[dict[str, Any]]] = {}
            for workload, (runtime, count) in workloads.items():
                with Stack(console) as stack:
                    report.redis = redis_version(stack.redis_program)
                    turns[workload] = CostRun(stack, collector, console).run(workload, runtime, count, rounds)
            exits.close()
            conclude(report, turns)
            console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


class CostRun:
    """One workload."""

    def __init__(self, stack: Stack, collector: Collector, console: Console) -> None:
        self._stack = stack
        self._collector = collector
        self._console = console
        self._texts = [item.text for item in Reader().documents(_TEXTS, _CHARS)]
        self._revision = 0

    def run(self, workload: str, runtime: str, count: int, rounds: int) -> list[dict[str, Any]]:
        """Every second round goes backwards, so that an index that grows, or a machine that tires, favours none."""
        turns = []
        for number in range(rounds):
            for variant in list(ONE_IN)[:: -1 if number % 2 else 1]:
                turn = {"variant": variant, "round": number} | self._turn(variant, runtime, count)
                told = f"{turn['per_second']:,.0f} documents/s, {turn['spans']:,} spans"
                self._console.step(f"{workload}, tracing {variant}: {told}")
                turns.append(turn)
        return turns

    def _turn(self, variant: str, runtime: str, count: int) -> dict[str, Any]:
        one_in = ONE_IN[variant]
        chosen: dict[str, Any] = {"trace_one_in": one_in, "otlp_endpoint": self._collector.url} if one_in else {}
        if variant != BACKLOG:
            chosen["freshness_objective_ms"] = _NEVER_SLOW_MS
        with self._stack.roles(runtime=runtime, probe_one_in=one_in, **chosen) as roles:
            tracing = Tracing(roles.settings, "publish")
            with DocumentPublisher(roles.settings, tracing=tracing, linger_ms=5) as publisher:
                publisher.connect()
                self._burst(roles, publisher, min(_WARM_UP, count))
                time.sleep(_FIRST_EXPORT_S)
                self._collector.taken()
                turn = self._burst(roles, publisher, count)
            tracing.close()
        return turn | {"spans": self._collector.taken()}

    def _burst(self, roles: Roles, publisher: DocumentPublisher, count: int) -> dict[str, Any]:
        changes = [
            upsert(f"doc-{self._revision + n}", revised(self._texts[n % _TEXTS], self._revision + n))
            for n in range(count)
        ]
        self._revision += count
        pids = {name: pid for name, pid in roles.children.pids().items() if name in _MEASURED}
        before = cpu_s(pids)
        published = publish(publisher, changes)
        seconds = wait_applied(roles.gateway, published.offsets, _WITHIN_S, roles.check) - published.began
        time.sleep(_SETTLE_S)
        used = cpu_s(pids)
        return {
            "documents": count,
            "seconds": seconds,
            "per_second": count / seconds,
            "cpu_ms_per_document": {name: (used[name] - before[name]) * 1000 / count for name in pids},
        }


def ratios(turns: Sequence[Mapping[str, Any]], variant: str) -> list[float]:
    """Documents/s of a variant as a share of those of `off` in the same round; 1: it costs nothing."""
    rates = {(turn["round"], turn["variant"]): turn["per_second"] for turn in turns}
    return [rate / rates[number, OFF] for (number, own), rate in rates.items() if own == variant]


def cpu_ms(turns: Sequence[Mapping[str, Any]], variant: str) -> dict[str, float]:
    """CPU milliseconds per document by process, the mean over the rounds."""
    used = [turn["cpu_ms_per_document"] for turn in turns if turn["variant"] == variant]
    return {name: statistics.fmean(item[name] for item in used) for name in _MEASURED}


def conclude(report: Report, turns: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Put figures, tables, targets and notes into the report."""
    report.figures = {"turns": turns}
    for workload, own in turns.items():
        report.tables.append(_table(workload, own))
        ratio = statistics.median(ratios(own, DEFAULT))
        what = f"{workload}: documents/s with the default sampling, against none"
        report.targets.append(Target(what, f"≥ {_AIM_RATIO:.0%}", f"{ratio:.1%}", ratio >= _AIM_RATIO))
    variants = (
        "Off: no endpoint and no probe. One in 100, the default: so many documents are traced, and so many are "
        "searched for once visible, ten a second at most; the freshness objective is out of reach here: one that "
        "misses it is always both, and in a burst nearly all take longer than 1 s. That case, a backlog with the "
        "settings as they are, is the third row."
    )
    clock = (
        "Each turn has new processes, warmed up until they have sent their first spans; the clock runs from the first "
        "produce until a search with `min_offsets` of every partition has answered. Rounds go forwards and backwards "
        "by turns. Ratios are to `off` of the same round."
    )
    cpu = (
        "CPU: of the whole process, until 1.5 s after the last document, so with most of what is sent later; "
        "milliseconds per document. The collector keeps what it gets and counts afterwards."
    )
    report.notes += [variants, clock, cpu]


def _table(workload: str, turns: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        *("tracing", "documents/s, median", "ratio to off, median", "least", "most"),
        *("spans a document", "embed, CPU ms a document", "index, CPU ms a document", "both, ratio to off"),
    )
    off = sum(cpu_ms(turns, OFF).values())
    rows: list[list[object]] = []
    for variant in ONE_IN:
        own = [turn for turn in turns if turn["variant"] == variant]
        shares, used = ratios(turns, variant), cpu_ms(turns, variant)
        spans = sum(turn["spans"] for turn in own) / sum(turn["documents"] for turn in own)
        rate = statistics.median(turn["per_second"] for turn in own)
        spread = (statistics.median(shares), min(shares), max(shares))
        rows.append([variant, rate, *spread, spans, *used.values(), sum(used.values()) / off])
    return Table(f"Through everything, {workload}, {turns[0]['documents']:,} documents a turn", columns, rows)


if __name__ == "__main__":
    tracing()
