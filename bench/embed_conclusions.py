"""What `bench.embed` concludes from its figures: tables, targets, notes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from app.model.openvino_model import has_amx
from bench.embed_notes import notes
from bench.embed_rates import Rates, bulk_table, limit_table, own_table, policies_table, singles_table
from bench.embed_texts import KINDS, MIXED
from bench.report import Report, Table, Target

FAR_TIMES = {True: 8.0, False: 1.7}
"""With and without AMX: how many times the default configuration is aimed at."""
OF_BARE, QUERY_MS, START_S, CACHED_PER_S = 0.95, 4.0, 1.0, 20_000
STARVED_TIMES = 2.0

Figures = Mapping[str, Any]


def conclude(report: Report) -> None:
    """Add everything that follows from `report.figures` and `report.sizes`."""
    figures, sizes = report.figures, report.sizes
    rates = {kind: Rates(kind, figures, sizes) for kind in KINDS}
    figures["conclusions"] = {kind: rates[kind].as_json() for kind in KINDS}
    report.tables = [
        bulk_table(rates),
        policies_table(figures, sizes),
        own_table(figures, sizes),
        limit_table(rates, figures),
        singles_table(figures),
        _queries(figures),
        _starts(figures),
        _steps(figures),
        _cached(figures),
    ]
    report.targets = [*_bulk_targets(rates[MIXED]), *_query_targets(figures), *_cached_targets(figures)]
    report.notes += notes(figures, sizes)


def _queries(figures: Figures) -> Table:
    rows = []
    for name, told in figures["queries"].items():
        alone = statistics.mean(told["bulk_alone_per_s"]) if "bulk_alone_per_s" in told else float("nan")
        beside = told.get("bulk_per_s", float("nan"))
        loss = f"{1 - beside / alone:.0%}" if "bulk_per_s" in told else ""
        rows.append((name, told["p50"], told["p95"], told["p99"], told["max"], alone, beside, loss))
    columns = ("queries", "p50 ms", "p95 ms", "p99 ms", "longest ms", "bulk alone, texts/s", "meanwhile", "loses")
    return Table("Query vectors in the gateway, no cache", columns, rows)


def _starts(figures: Figures) -> Table:
    medians = {role: told for role, told in figures["starts"]["medians_s"].items() if "first vector" in told}
    longest = {
        role: max(start["first vector"] for start in starts)
        for role, starts in figures["starts"]["starts_s"].items()
        if role in medians
    }
    columns = list(next(iter(medians.values())))
    rows = [(role, *(told[name] for name in columns), longest[role]) for role, told in medians.items()]
    return Table("From the start of the process, seconds (medians)", ("", *columns, "slowest first vector"), rows)


def _steps(figures: Figures) -> Table:
    rows = list(figures["starts"]["medians_s"]["steps"].items())
    return Table("What loading for single queries consists of", ("step", "seconds (medians)"), rows)


def _cached(figures: Figures) -> Table:
    rows = list(_cached_per_s(figures).items())
    return Table("Documents that are known", ("their cuts and vectors are", "chunks/s (median)"), rows)


def _cached_per_s(figures: Figures) -> dict[str, float]:
    """Chunks per second by where the vectors were."""
    cached = figures["cached"]
    return {
        title: cached["facts"]["chunks"] / statistics.median(cached[name]["seconds"])
        for name, title in (("memory", "in the process"), ("redis", "in Redis alone"))
        if name in cached
    }


def _bulk_targets(mixed: Rates) -> list[Target]:
    amx = has_amx()
    wanted = FAR_TIMES[amx]
    of_reference, of_bare = mixed.ratio("ours", "reference"), mixed.ratio("ours", mixed.policy)
    of_arriving = mixed.ratio("ours", "reference, arriving")
    return [
        Target(
            "mixed texts, against `encode` of all at once (it sorts them)",
            f"≥ {wanted:.1f} ×",
            f"{of_reference:.2f} × ({mixed.ours:.0f} against {mixed.reference:.0f} texts/s)",
            of_reference >= wanted,
        ),
        Target(
            "mixed texts, against `encode` of 32 at a time as they arrive",
            f"≥ {wanted:.1f} ×",
            f"{of_arriving:.2f} × ({mixed.ours:.0f} against {mixed.per_s('reference, arriving'):.0f} texts/s)",
            of_arriving >= wanted,
        ),
        Target(
            "mixed texts, against bare OpenVINO with the best policy",
            f"≥ {OF_BARE:.0%}",
            f"{of_bare:.1%} ({mixed.ours:.0f} against {mixed.bare:.0f} texts/s)",
            of_bare >= OF_BARE,
        ),
    ]


def _query_targets(figures: Figures) -> list[Target]:
    queries, medians = figures["queries"], figures["starts"]["medians_s"]
    found = [
        _at_most(f"query vector, {how}, p50", QUERY_MS, queries[name]["p50"], "ms")
        for name, how in (("back to back", "one after another"), ("apart", "20 ms apart"))
    ]
    found.append(_not_starved(queries["apart"], queries["beside bulk"]))
    return found + [
        _at_most(f"first vector after the start, {role}", START_S, medians[role]["first vector"], "s")
        for role in ("model alone", "gateway")
    ]


def _not_starved(alone: Figures, beside: Figures) -> Target:
    """A query that has half of the cores takes twice as long; one that waits for a call of the bulk work is starved."""
    times = beside["p50"] / alone["p50"]
    return Target(
        "query vector beside bulk work, 20 ms apart: p50 to that alone; p99 (no figures were set)",
        f"≤ {STARVED_TIMES:g} ×; less than a call of the bulk work: {beside['bulk_call_ms']:.0f} ms",
        f"{times:.1f} ×; {beside['p99']:.1f} ms",
        times <= STARVED_TIMES and beside["p99"] < beside["bulk_call_ms"],
    )


def _at_most(what: str, limit: float, found: float, unit: str) -> Target:
    return Target(what, f"≤ {limit:g} {unit}", f"{found:.2f} {unit}", found <= limit)


def _cached_targets(figures: Figures) -> list[Target]:
    return [
        Target(f"known documents, {where}", f"≥ {CACHED_PER_S:,} chunks/s", f"{rate:,.0f}/s", rate >= CACHED_PER_S)
        for where, rate in _cached_per_s(figures).items()
    ]
