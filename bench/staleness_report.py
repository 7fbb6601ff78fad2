"""What `make bench-staleness` says in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.settings import Settings
from bench.report import Report, Table, Target
from bench.staleness_prober import BETWEEN

_AIM_MS = 100


def conclude(report: Report, figures: dict[str, Any], findings: Sequence[str], settings: Settings) -> None:
    """Put figures, tables, targets and notes into the report."""
    phases: Mapping[str, Any] = figures["phases"]
    report.figures = figures | {"findings": list(findings)}
    report.sizes = {"partitions": settings.partitions, "watermark_interval_ms": settings.watermark_interval_ms}
    report.tables.append(_table(phases, figures["fresh_again_after_s"]))
    lies = sum(phase["lies"] for phase in phases.values())
    largest_ms = max((phase["largest_lie_ms"] for phase in phases.values()), default=0.0)
    judged = sum(phase["judged"] for phase in phases.values())
    told = f"{lies}" + (f", the largest by {largest_ms:.1f} ms" if lies else "")
    report.targets.append(Target(f"lies in {judged:,} reports of a shard", "0", told, not lies))
    for name, phase in phases.items():
        if name != BETWEEN:
            p99_ms = phase["beyond_design_ms"]["p99"]
            report.targets.append(
                Target(
                    f"{name}: error beyond the interval, p99", f"< {_AIM_MS} ms", f"{p99_ms:.0f} ms", p99_ms < _AIM_MS
                )
            )
    report.notes += [f"**Lie**: {finding}." for finding in findings]
    report.notes += _notes(figures, settings)


def _table(phases: Mapping[str, Any], again_s: Mapping[str, float]) -> Table:
    columns = (
        *("phase", "reports", "lies", "largest lie", "reported, most", "true, most"),
        *("error p50", "p99", "max", "by design", "beyond p99", "beyond max", "fresh again, s", "no answer"),
    )
    rows: list[list[object]] = []
    for name, phase in phases.items():
        error, beyond = phase["error_ms"], phase["beyond_design_ms"]
        rows.append(
            [
                *(name, phase["judged"], phase["lies"], phase["largest_lie_ms"]),
                *(phase["most_reported_ms"], phase["most_true_ms"], error["p50"], error["p99"], error["max"]),
                *(phase["by_design_ms"], beyond["p99"], beyond["max"], again_s.get(name, float("nan"))),
                ", ".join(f"{why} {count}" for why, count in phase["not_answered"].items()) or "-",
            ]
        )
    return Table("Staleness of a shard as reported against as it was, ms", columns, rows)


def _notes(figures: dict[str, Any], settings: Settings) -> list[str]:
    interval_ms = settings.watermark_interval_ms
    every_ms = 1000 / figures["markers_per_partition_second"]
    lie = (
        "A lie: `as_of` is later than the moment at which Kafka had confirmed a marker that this very answer does not "
        "have. The other way round an answer is fresher than it says: that is the error."
    )
    truth = (
        "The truth at the time of an answer: how long ago the oldest marker was published that is not in it, 0 if "
        "none is missing. A marker was published between being sent and being confirmed, so the truth is an interval, "
        "and the error is the distance to its nearer end. While Kafka is away nobody can know whether a marker that "
        "was sent is in it: every report between is right."
    )
    interval = (
        f"The watermark interval ({interval_ms} ms) enters where nothing comes: a shard then hears so once an "
        "interval, and may report up to an interval and the way more than is true. That is by design, and is taken "
        "off in `beyond`, only in the phases with a figure under `by design`. It costs two questions to Kafka and a "
        "record a partition each time: a shorter interval costs more of them."
    )
    records = (
        f"Where something comes, records tell: markers in every partition {every_ms:.0f} ms apart, of texts that are "
        "known, so they wait for the model only behind others. What lies between two of them adds to the error."
    )
    again = (
        "Fresh again: from the mending until every shard reports at most 250 ms and what is by design. Session timeout "
        f"{figures['session_timeout_ms']} ms instead of 30 s: a killed worker's partitions stay its own for as long."
    )
    before = (
        "A shard says how far it is before it searches, never after: an answer made while it catches up has more than "
        "it says. So the largest errors are single answers."
    )
    words = (
        "Searches by meaning. Those with keywords report the keyword index, which follows the rows; its truth is not "
        "measured here."
    )
    return [
        *(lie, truth, interval, records, before, words, again),
        f"Full load is the capacity of a burst, {figures['capacity_per_second']:.0f} changes/s of texts never seen.",
        f"Answers that had an older marker than one before them, or lacked it: {figures['went_back']}.",
    ]
