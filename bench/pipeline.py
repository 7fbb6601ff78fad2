"""`make bench-pipeline`: documents per second from the first produce until every shard can be searched for all.

Against the bare model on the same texts, before and after, on the same machine with the roles stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import click

from app.local.console import Console
from app.local.process import until_stopped
from bench.bare import encode
from bench.client import wait_applied
from bench.meters import CpuMeter
from bench.publish import publish, upsert
from bench.report import Report, Table, Target, redis_version
from bench.stack import Roles, Stack, check_installed
from bench.texts import Cutter, Reader, described
from producers.publisher import DocumentPublisher
from schemas.document_change import DocumentChange
from schemas.errors import HeadraceError

BARE = "sentence-transformers"
_WARM_UP_DOCUMENTS = 64
_WITHIN_S = 600
_SETTLE_WITHIN_S = 60
_PROCESSES = ("embed", "index", "search", "kafka", "redis", "bench")


@click.command()
@click.option("--documents", default=1200, show_default=True, type=click.IntRange(min=10), help="Uncached documents.")
@click.option("--events", default=20_000, show_default=True, type=click.IntRange(min=10), help="Cached; unchanged.")
@click.option("--name", default="pipeline", show_default=True, help="Of the files in bench/results.")
def pipeline(documents: int, events: int, name: str) -> None:
    """Measure the whole pipeline on a Kafka and a Redis of its own."""
    check_installed()
    console = Console()
    report = Report(name, "Documents per second through the whole pipeline", "make bench-pipeline", sys.argv[1:])
    try:
        with until_stopped(), ExitStack() as exits:
            PipelineRun(exits.enter_context(Stack(console)), console, report).run(documents, events)
            exits.close()
            console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


class PipelineRun:
    """One run; results go into the report."""

    def __init__(self, stack: Stack, console: Console, report: Report) -> None:
        self._stack = stack
        self._console = console
        self._report = report
        self._phases: dict[str, dict[str, Any]] = {}
        report.redis = redis_version(stack.redis_program)

    def run(self, documents: int, events: int) -> None:
        """All phases in order."""
        reader, cutter = Reader(), Cutter(self._stack.settings)
        warm_up = [item.text for item in reader.documents(_WARM_UP_DOCUMENTS)]
        texts = [item.text for item in reader.documents(documents)]
        self._report.sizes = cutter.describe(texts) | {"events": events}
        self._console.step(described(self._report.sizes))
        chunks = [chunk for text in texts for chunk in cutter.chunks(text)]

        before = self._bare(chunks, texts)
        with self._stack.roles() as roles:
            self._warm_up(roles, warm_up)
            self._phase("uncached", roles, [upsert(f"first-{n}", text) for n, text in enumerate(texts)])
        after = self._bare(chunks, texts)
        with self._stack.roles(cache_memory_mb=0) as roles:
            self._warm_up(roles, warm_up)
            self._phase("cached in Redis", roles, _copies("redis", texts, events))
            self._phase("unchanged", roles, _copies("redis", texts, events))
        with self._stack.roles() as roles:
            self._warm_up(roles, warm_up)
            self._phase("cached in Redis and process", roles, _copies("process", texts, events))
        self._conclude(before, after)

    def _bare(self, chunks: Sequence[str], texts: Sequence[str]) -> dict[str, tuple[str, float]]:
        """Runtime and documents per second: of the chunks, which is what the pipeline's model is given, and of whole
        documents, of which a bare model sees the beginning."""
        found = {}
        given: dict[str, dict[str, Sequence[str]]] = {
            BARE: {"chunks": chunks, "documents": texts},
            "auto": {"chunks": chunks},
        }
        for runtime, parts in given.items():
            self._console.step(f"the bare model ({runtime}) embeds {' and '.join(parts)}")
            encoded = encode(runtime, parts, self._stack.folder)
            for part, seconds in encoded.seconds.items():
                found[f"{runtime} {part}"] = encoded.runtime, len(texts) / seconds
                self._console.step(f"  {part}: {len(texts) / seconds:.1f} documents/s")
        return found

    def _warm_up(self, roles: Roles, texts: Sequence[str]) -> None:
        """Each start has documents of its own, or nothing would reach the model."""
        prefix = f"warm-{time.monotonic_ns()}"
        changes = [upsert(f"{prefix}-{n}", f"{text}\n\n{prefix}") for n, text in enumerate(texts)]
        with DocumentPublisher(roles.settings, linger_ms=5) as publisher:
            publisher.connect()
            published = publish(publisher, changes)
        wait_applied(roles.gateway, published.offsets, _WITHIN_S, roles.check)
        self._settle(roles)

    def _settle(self, roles: Roles) -> None:
        """What the absorber still moves into the graphs belongs to what was before."""
        limit = roles.settings.write_buffer_rows
        deadline = time.monotonic() + _SETTLE_WITHIN_S
        while any(shard["buffered"] >= limit for shard in roles.shards()) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1.5)  # commits and announcements of the last batch

    def _phase(self, name: str, roles: Roles, changes: Sequence[DocumentChange]) -> None:
        self._console.step(f"{name}: publishing {len(changes):,} changes")
        metrics = roles.embed_metrics()
        with DocumentPublisher(roles.settings, linger_ms=5) as publisher:
            publisher.connect()
            meter = CpuMeter({**self._stack.pids(), **roles.children.pids()})
            published = publish(publisher, changes)
            applied = wait_applied(roles.gateway, published.offsets, _WITHIN_S, roles.check, self._progress(roles))
            cores = meter.cores()
        done = roles.embed_metrics()
        seconds = applied - published.began
        self._phases[name] = {
            "events": len(changes),
            "seconds": seconds,
            "per_second": len(changes) / seconds,
            "publishing_seconds": published.ended - published.began,
            "after_publishing_seconds": applied - published.ended,
            "per_second_after_publishing": len(changes) / (applied - published.ended),
            "cores": cores,
            "buffered_chunks": sum(shard["buffered"] for shard in roles.shards()),
            "embed_counters": {
                key: value - metrics.get(key, 0.0)
                for key, value in done.items()
                if key.endswith(("_total", "_count", "_sum")) or "_total{" in key
            },
        }
        self._console.step(f"  {len(changes) / seconds:,.0f} documents/s in {seconds:.1f} s")
        self._settle(roles)

    def _progress(self, roles: Roles) -> Callable[[], None]:
        def say() -> None:
            shards = roles.shards()
            documents = sum(shard["documents"] for shard in shards)
            self._console.step(f"  … the shards hold {documents:,} documents")

        return say

    def _conclude(self, before: dict[str, tuple[str, float]], after: dict[str, tuple[str, float]]) -> None:
        bare = {
            key: {
                "runtime": runtime,
                "runs_per_second": [rate, after[key][1]],
                "per_second": 2 / (1 / rate + 1 / after[key][1]),  # of both runs together
            }
            for key, (runtime, rate) in before.items()
        }
        self._report.figures = {"bare": bare, "phases": self._phases}
        self._report.tables += [_rates(bare, self._phases), _cores(self._phases)]
        self._report.targets += _targets(bare, self._phases)
        self._report.notes += _notes(self._report.sizes)


def _copies(prefix: str, texts: Sequence[str], count: int) -> list[DocumentChange]:
    return [upsert(f"{prefix}-{n}", texts[n % len(texts)]) for n in range(count)]


def _rates(bare: dict[str, Any], phases: dict[str, Any]) -> Table:
    reference = bare[f"{BARE} chunks"]["per_second"]
    rows: list[list[object]] = []
    for key, found in bare.items():
        what = "the same chunks" if key.endswith("chunks") else "whole documents, their beginnings"
        runs = " and ".join(f"{rate:.1f}" for rate in found["runs_per_second"])
        rate = found["per_second"]
        rows.append([f"bare {found['runtime']}: {what}", "", rate, rate / reference, f"before and after: {runs}"])
    for name, phase in phases.items():
        rate = phase["per_second"]
        rest = f"{phase['per_second_after_publishing']:,.0f}/s from the end of publishing"
        rest += f", which took {phase['publishing_seconds']:.2f} s"
        rows.append([f"pipeline: {name}", phase["events"], rate, rate / reference, rest])
    return Table("Documents per second", ("what", "events", "documents/s", "times the bare model", ""), rows)


def _cores(phases: dict[str, Any]) -> Table:
    rows = []
    for name, phase in phases.items():
        model_s = phase["embed_counters"].get("headrace_embed_model_seconds_total", 0.0)
        used = [phase["cores"].get(process, float("nan")) for process in _PROCESSES]
        rows.append([name, *used, f"{model_s / phase['seconds']:.0%}"])
    return Table("Cores used by each process meanwhile", ("phase", *_PROCESSES, "time in the model"), rows)


def _targets(bare: dict[str, Any], phases: dict[str, Any]) -> list[Target]:
    ratio = phases["uncached"]["per_second"] / bare[f"{BARE} chunks"]["per_second"]
    cached, unchanged = phases["cached in Redis"]["per_second"], phases["unchanged"]["per_second"]
    own = phases["uncached"]["per_second"] / bare["auto chunks"]["per_second"]
    return [
        Target("uncached, against the bare reference model", "≥ 85 %", f"{ratio:.0%}", ratio >= 0.85),
        Target("uncached, against the bare fast model (no target was set)", "≥ 85 %", f"{own:.0%}", own >= 0.85),
        Target("cached text, from Redis alone", "≥ 3,000/s", f"{cached:,.0f}/s", cached >= 3000),
        Target("unchanged redeliveries", "≥ 5,000/s", f"{unchanged:,.0f}/s", unchanged >= 5000),
    ]


def _notes(sizes: dict[str, Any]) -> list[str]:
    bare = (
        "The bare model ran in a process of its own while the roles were stopped, before and after the uncached phase; "
        f"bare and pipeline were warmed up with {_WARM_UP_DOCUMENTS} texts."
    )
    cached = (
        f"Cached: {sizes['events']:,} new documents over the {sizes['documents']:,} known texts. `in Redis`: the "
        "embed worker is a new process with `HEADRACE_CACHE_MEMORY_MB=0`; `in Redis and process`: one with the default."
    )
    return [
        f"Texts: docstrings as they are, without titles: {described(sizes)}.",
        "The clock runs from the first produce until a search with `min_offsets` of every partition has answered.",
        bare,
        cached,
        "Unchanged: the same ids with the same text once more; nothing is embedded and nothing changes in the index.",
    ]


if __name__ == "__main__":
    pipeline()
