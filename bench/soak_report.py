"""What a soak found, for bench/results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report import Report, Table, Target

_SHOWN = 20
_OF_A_REPLICA = (
    *("lost", "ghosts", "stale", "wrong", "version", "duplicates"),
    *("unsearchable", "miscounted", "not caught up"),
)
_MUST_NOT_BE = {
    "while it ran": ("vanished", "ghosts", "duplicates", "stale"),
    "in the end": _OF_A_REPLICA,
    "rebuilt": _OF_A_REPLICA,
    "dead letters": ("lost", "wrong"),
    "log": ("unlogged",),
    "audits while it ran": ("drift", "failed", "hung"),
    "final audit": ("drift", "failed", "hung", "incomplete"),
}


def fill(
    report: Report,
    seed: int,
    drift: Mapping[str, Mapping[str, int]],
    findings: Sequence[str],
    figures: dict[str, Any],
) -> None:
    """Put everything into the report."""
    report.sizes = {"seed": seed, **figures["plan"]}
    report.figures = {**figures, "drift": drift, "findings": list(findings)}
    for when, kinds in _MUST_NOT_BE.items():
        found = drift.get(when)
        told = "not asked" if found is None else ", ".join(f"{n:,} {kind}" for kind, n in found.items() if n) or "0"
        report.targets.append(Target(f"{when}: {', '.join(kinds)}", "0", told, found is not None and told == "0"))
    report.tables.append(
        Table(
            "What happened",
            ("", ""),
            [
                ("seed", str(seed)),
                ("seconds of faults", figures["broken_s"]),
                ("faults", sum(figures["faults"].values())),
                ("events published", figures["events"]),
                ("events per second", figures["events_per_second"]),
                ("events without a delivery report", figures["unconfirmed"]),
                ("documents compared on each replica", figures["documents"]),
                ("longest without an answer, s", figures["longest_s"]["without an answer"]),
                ("longest without a whole answer, s", figures["longest_s"]["without a whole answer"]),
                ("longest staleness that an answer told, s", figures["longest_staleness_ms"] / 1000),
                ("caught up after the last fault within, s", figures.get("caught_up_after_s", "not")),
                ("rebuilt and caught up within, s", figures.get("rebuilt_after_s", "not")),
                ("`headrace audit` beside the faults, runs", sum(figures["audits"].values())),
                ("… with drift", figures["audits"].get("drift", 0)),
                ("… ended by a fault with status 2", figures["audits"].get("ended by a fault", 0)),
                ("`headrace audit` in the end", figures.get("final_audit", "not")),
                ("roles that ended by themselves", len(figures["ended_by_themselves"])),
                ("roles killed 30 s after SIGTERM", len(figures["killed_after_sigterm"])),
                ("other status than 0 after SIGTERM", len(figures["ended_with_an_error_after_sigterm"])),
            ],
        )
    )
    report.tables.append(Table("Faults", ("kind", "times"), sorted(figures["faults"].items())))
    report.tables.append(Table("Queries", ("outcome", "times"), sorted(figures["queries"].items())))
    report.notes += [*findings[:_SHOWN], *([f"… and {len(findings) - _SHOWN} more"] if len(findings) > _SHOWN else [])]
