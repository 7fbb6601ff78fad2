"""The arithmetic of the tracing benchmark, and its collector with the product's own exporter."""

from __future__ import annotations

from typing import Any

import pytest

from app.observe.tracing import Tracing
from app.settings import Settings
from bench.collector import Collector
from bench.tracing_cost import DEFAULT, OFF, cpu_ms, ratios


def turn(round_number: int, variant: str, per_second: float, embed_ms: float = 1.0) -> dict[str, Any]:
    used = {"embed": embed_ms, "index": 2.0}
    return {"round": round_number, "variant": variant, "per_second": per_second, "cpu_ms_per_document": used}


def test_a_ratio_is_to_off_of_the_same_round() -> None:
    turns = [turn(0, OFF, 100), turn(0, DEFAULT, 90), turn(1, DEFAULT, 55), turn(1, OFF, 50)]

    assert ratios(turns, DEFAULT) == pytest.approx([0.9, 1.1])


def test_cpu_is_the_mean_over_the_rounds_of_a_variant() -> None:
    turns = [turn(0, OFF, 1, embed_ms=1.0), turn(1, OFF, 1, embed_ms=3.0), turn(0, DEFAULT, 1, embed_ms=9.0)]

    assert cpu_ms(turns, OFF) == {"embed": 2.0, "index": 2.0}


def test_the_collector_counts_the_spans_since_it_was_last_asked() -> None:
    with Collector() as collector:
        tracing = Tracing(Settings(_env_file=None, otlp_endpoint=collector.url), "publish")
        for _ in range(3):
            tracing.tracer.start_span("one").end()
        tracing.close()

        assert (collector.taken(), collector.taken()) == (3, 0)
