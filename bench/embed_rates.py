"""How fast the competitors of `bench.embed` were, from its figures, and the tables of that."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from bench.embed_policies import ARRIVAL, GRID
from bench.embed_texts import KINDS, MIXED
from bench.report import Table

Figures = Mapping[str, Any]


class Rates:
    """Texts per second of one kind: medians over the rounds; ratios are medians of the ratios of each round."""

    def __init__(self, kind: str, figures: Figures, sizes: Figures) -> None:
        self._rounds = [round_[kind] for round_ in figures["bulk"]]
        self._count = sizes[kind]["texts"]
        policies = [name for name in self._rounds[0] if name in {str(policy) for policy in GRID}]
        self.policy = max(policies, key=self.per_s)
        self.reference, self.ours, self.bare = (self.per_s(name) for name in ("reference", "ours", self.policy))
        self.precision = "bf16" if "bf16" in figures["runtimes"]["ours"]["runtime"] else "f32"
        gemm = figures["gemm"]["flops_per_s"]
        self.flops = figures["flops_per_text"][kind]
        self.limit = max(gemm.get(self.precision, gemm["f32"]).values()) / self.flops

    def per_s(self, name: str) -> float:
        """Of one competitor; not a number where it did not take part."""
        seconds = [round_[name]["seconds"] for round_ in self._rounds if name in round_]
        return self._count / statistics.median(seconds) if seconds else float("nan")

    def ratio(self, name: str, to: str) -> float:
        """How many times as fast as another."""
        return float(statistics.median(round_[to]["seconds"] / round_[name]["seconds"] for round_ in self._rounds))

    def cores(self, name: str) -> float:
        """How many cores one competitor used in the mean: fewer than there are means waiting, or others' work."""
        seconds = sum(round_[name]["seconds"] for round_ in self._rounds)
        return float(sum(round_[name]["cpu_seconds"] for round_ in self._rounds) / seconds)

    def cpu_ratio(self, name: str, to: str) -> float:
        """CPU time to that of another, which others on the machine disturb less than the time that passes."""
        own, other = (sum(round_[each]["cpu_seconds"] for round_ in self._rounds) for each in (name, to))
        return float(own / other)

    def as_json(self) -> dict[str, Any]:
        """What the tables say."""
        return {
            "texts_per_s": {"reference": self.reference, "ours": self.ours, "bare": self.bare, "limit": self.limit},
            "bare_policy": self.policy,
            "ours_to_reference": self.ratio("ours", "reference"),
            "ours_to_bare": self.ratio("ours", self.policy),
            "cpu_time_ours_to_bare": self.cpu_ratio("ours", self.policy),
            "cores": {name: self.cores(name) for name in ("reference", "ours", self.policy)},
            "ours_to_limit": self.ours / self.limit,
        }


def bulk_table(rates: Mapping[str, Rates]) -> Table:
    """All competitors."""
    rows = [
        (
            kind,
            rate.reference,
            rate.per_s("reference, arriving"),
            rate.per_s(str(ARRIVAL)),
            rate.bare,
            rate.ours,
            f"{rate.ratio('ours', 'reference'):.2f} ×",
            f"{rate.ratio('ours', rate.policy):.0%}",
            f"{rate.cpu_ratio('ours', rate.policy):.2f} ×",
            f"{rate.cores('ours'):.2f}, {rate.cores(rate.policy):.2f}",
            rate.policy,
        )
        for kind, rate in rates.items()
    ]
    columns = (
        *("texts", "`SentenceTransformer.encode`, defaults", "the same, 32 as they arrive", "bare OpenVINO, likewise"),
        *("bare OpenVINO, best policy", "ours", "ours to `encode`", "ours to bare OpenVINO"),
        *("CPU time, likewise", "cores that ours and bare OpenVINO used", "best policy"),
    )
    return Table("Many texts: texts/s", columns, rows)


def policies_table(figures: Figures, sizes: Figures) -> Table:
    """All policies over mixed texts, the best first."""
    told = figures["screening"][MIXED]
    count = sizes[MIXED]["texts"]
    rows = [
        (
            name,
            count / facts["seconds"],
            facts["tokens"] / facts["seconds"],
            facts["padded_tokens"] / facts["tokens"],
            facts["runs"],
        )
        for name, facts in sorted(told.items(), key=lambda item: item[1]["seconds"])
    ]
    columns = ("requests: cut", "texts/s", "tokens/s without padding", "padded to tokens", "calls")
    return Table("Bare OpenVINO over mixed texts, one run each, all shapes seen before", columns, rows)


def own_table(figures: Figures, sizes: Figures) -> Table:
    """What our path does, over all rounds."""
    rows = []
    for kind in KINDS:
        rounds = [round_[kind]["ours"] for round_ in figures["bulk"]]
        total = {name: sum(facts[name] for facts in rounds) for name in ("runs", "tokens", "padded_tokens", "seconds")}
        texts = sizes[kind]["texts"] * len(rounds)
        tokenised_s = figures["tokenise_s"][kind] * len(rounds)
        rows.append(
            (
                kind,
                total["tokens"] / texts,
                total["tokens"] / total["seconds"],
                f"{1 - total['tokens'] / total['padded_tokens']:.1%}",
                total["runs"] / len(rounds),
                texts / total["runs"],
                total["padded_tokens"] / total["runs"],
                f"{tokenised_s / total['seconds']:.1%}",
            )
        )
    columns = ("texts", "tokens", "tokens/s", "padding", "calls a round", "texts a call", "padded tokens a call")
    return Table("Our path", (*columns, "tokenising alone would take, of the time"), rows)


def limit_table(rates: Mapping[str, Rates], figures: Figures) -> Table:
    """Matrix products, and which share of the best of them our path reaches."""
    peaks = [
        (f"{precision} {shape}", flops / 1e12, "", "", "", "")
        for precision, shapes in figures["gemm"]["flops_per_s"].items()
        for shape, flops in shapes.items()
    ]
    rows = [
        (kind, rate.ours * rate.flops / 1e12, rate.flops / 1e9, rate.limit, rate.ours, f"{rate.ours / rate.limit:.0%}")
        for kind, rate in rates.items()
    ]
    columns = ("matrix product, or texts", "TFLOP/s", "GFLOP a text", "texts/s at the peak", "ours, texts/s", "share")
    return Table("The limit: matrix products, best of 30", columns, [*peaks, *rows])


def singles_table(figures: Figures) -> Table:
    """Latency of single texts."""
    rows = []
    for kind, told in figures["singles_ms"].items():
        quantiles = [told[f"{name}, {pause}"]["p50"] for pause in _PAUSES for name in ("reference", "ours")]
        rows.append((kind, *quantiles))
    columns = [f"{name}, {pause}" for pause in _PAUSES for name in ("`encode`", "ours")]
    return Table("One text at a time, p50 ms", ("texts", *columns), rows)


_PAUSES = ("back to back", "apart")
