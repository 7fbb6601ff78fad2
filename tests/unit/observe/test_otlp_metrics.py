"""Metrics as an OTLP collector receives them."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from app.observe.metrics import EmbedMetrics, GatewayMetrics, IndexMetrics
from app.observe.otlp_metrics import unit_of
from app.observe.push import MetricsPush
from app.settings import Settings
from schemas.errors import SettingsError
from tests.collector import Collector
from tests.services_local import eventually

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def settings(url: str, **changed: Any) -> Settings:
    given = {"collection": "c", "otlp_endpoint": url, "otlp_metrics": True, "otlp_metrics_interval_s": 0.1}
    return Settings(_env_file=None, **(given | changed))


def labels(point: Any) -> dict[str, str]:
    return {item.key: item.value.string_value for item in point.attributes}


def test_a_collector_gets_counters_gauges_and_histograms_with_units_and_who_sends_them(collector: Collector) -> None:
    metrics = IndexMetrics()
    metrics.records.labels("upsert").inc(3)
    metrics.burn.labels("60s").set(2.5)
    for seconds in (0.001, 0.003, 0.003, 99):
        metrics.latency.observe(seconds)
    push = MetricsPush(settings(collector.url), "index", metrics.registry)
    eventually(lambda: collector.metrics)
    push.close()

    assert collector.resources[-1] == {"service.name": "headrace-index", "headrace.collection": "c"}
    found: dict[str, Metric] = collector.metrics
    records, burn, latency = (
        found[name] for name in ("headrace_index_records", "headrace_objective_burn_ratio", "headrace_latency_seconds")
    )
    (point,) = records.sum.data_points
    assert (records.sum.is_monotonic, records.sum.aggregation_temporality) == (True, CUMULATIVE)
    assert (point.as_double, labels(point), records.unit) == (3, {"outcome": "upsert"}, "{records}")
    assert 0 < point.start_time_unix_nano < point.time_unix_nano
    (level,) = burn.gauge.data_points
    assert (level.as_double, labels(level), burn.unit) == (2.5, {"window": "60s"}, "1")
    (histogram,) = latency.histogram.data_points
    assert (histogram.count, latency.histogram.aggregation_temporality) == (4, CUMULATIVE)
    assert histogram.sum == pytest.approx(99.007)
    assert sum(histogram.bucket_counts) == 4
    assert histogram.bucket_counts[0] == 3
    assert len(histogram.bucket_counts) == len(histogram.explicit_bounds) + 1
    assert not histogram.HasField("max")
    assert latency.description


def test_what_was_counted_last_is_sent_at_the_end(collector: Collector) -> None:
    metrics = EmbedMetrics()
    push = MetricsPush(settings(collector.url, otlp_metrics_interval_s=3600), "embed", metrics.registry)
    metrics.retries.inc()
    push.close()
    (point,) = collector.metrics["headrace_embed_retries"].sum.data_points
    assert point.as_double == 1


def test_an_endpoint_that_is_not_there_costs_nothing_but_the_numbers() -> None:
    MetricsPush(settings("http://127.0.0.1:1"), "search", GatewayMetrics().registry).close()


def test_nothing_is_sent_that_was_not_asked_for(collector: Collector) -> None:
    MetricsPush(settings(collector.url, otlp_metrics=False), "search", GatewayMetrics().registry).close()
    assert collector.metrics == {}
    with pytest.raises(ValueError, match="HEADRACE_OTLP_METRICS needs HEADRACE_OTLP_ENDPOINT"):
        settings("")


def test_without_the_exporter_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'headrace\[otlp\]'"):
        MetricsPush(settings("http://127.0.0.1:1"), "embed", EmbedMetrics().registry)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("headrace_step_seconds", "s"),
        ("headrace_embed_model_seconds_saved", "s"),
        ("headrace_shard_memory_bytes", "By"),
        ("headrace_objective_burn_ratio", "1"),
        ("headrace_dead_letters", "{letters}"),
        ("headrace_lag_known", "1"),
    ],
)
def test_units_come_from_the_names(name: str, unit: str) -> None:
    assert unit_of(name) == unit
