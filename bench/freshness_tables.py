"""What `make bench-freshness` says in the end."""

from __future__ import annotations

from typing import Any

from bench.report import Table
from bench.texts import described


def freshness_tables(capacity: float, phases: dict[str, Any], alone: dict[str, Any]) -> list[Table]:
    columns = ("events/s", "probes", "p50", "p95", "p99", "max")
    rows: list[list[object]] = []
    own: list[list[object]] = []
    queries: list[list[object]] = []
    for name, phase in phases.items():
        where = f"{phase['events_per_second']:.0f} ({name})"
        for table, key in ((rows, "freshness_ms"), (own, "own_ms"), (queries, "query_ms")):
            spread = phase[key]
            table.append([where, *(spread[column] for column in ("count", "p50", "p95", "p99", "max"))])
    queries += [
        [f"nothing else, {name}", *(spread[key] for key in ("count", *columns[2:]))] for name, spread in alone.items()
    ]
    names = sorted({name for phase in phases.values() for name in phase["cores"]})
    cores = [[name, *(phase["cores"].get(key, float("nan")) for key in names)] for name, phase in phases.items()]
    steps = list(dict.fromkeys(step for phase in phases.values() for step in phase["spent_ms"]))
    spent = [[step, *(_cell(phase["spent_ms"].get(step)) for phase in phases.values())] for step in steps]
    return [
        Table(f"Source event → answer that has it, ms; capacity {capacity:.0f} changes/s", columns, rows),
        Table("The same as the system tells it (indexed_time − event_time), ms", columns, own),
        Table("Where the time of the probes went, ms, p50 / p99", ("step", *phases), spent),
        Table("One search by vector, as the prober sees it, ms", ("beside", "searches", *columns[2:]), queries),
        Table("Cores used by each process", ("phase", *names), cores),
    ]


def _cell(spread: dict[str, float] | None) -> str:
    return f"{spread['p50']:.1f} / {spread['p99']:.1f}" if spread else "-"


def freshness_notes(sizes: dict[str, Any], phases: dict[str, Any]) -> list[str]:
    clock = (
        "A probe's clock starts before its change is handed to the producer and stops when the answer is received. It "
        "asks one search after another, with a pause of 1 ms or a twentieth of what has passed, whichever is more."
    )
    notes = [
        f"Texts, one chunk each, never seen before, so every change costs a model call: {described(sizes)}.",
        clock,
        "With so few probes p99 is nearly the largest value.",
    ]
    for name, phase in phases.items():
        if phase["lost"]:
            notes.append(f"**{name}: {phase['lost']} probes were not found within 30 s and are not in the figures.**")
        if phase["load"]:
            caught_up = f"after its end the shards had caught up in {phase['caught_up_after_s']:.1f} s"
            late = f"it was late by {phase['load']['late_ms']['p99']:.1f} ms at p99"
            notes.append(
                f"{name}: {phase['load']['per_second']:.1f} evenly spaced changes/s beside; {late}; {caught_up}."
            )
    return notes
