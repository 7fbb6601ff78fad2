"""Prometheus metrics as OTLP: cumulative, with the names they have at /metrics; imported where they are sent."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from app.observe.sdk import resource
from app.settings import Settings
from schemas.errors import SettingsError

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1"}
_TIMEOUT_S = 5

Labels = tuple[tuple[str, str], ...]
Point = NumberDataPoint | HistogramDataPoint


class OtlpMetrics:
    """Sends a registry when it is told to. Raises SettingsError where the exporter is not installed."""

    def __init__(self, settings: Settings, role: str, registry: CollectorRegistry) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        except ImportError as error:
            raise SettingsError(
                "otlp_metrics is set, but the exporter is not installed: pip install 'headrace[otlp]'"
            ) from error
        assert settings.otlp_endpoint is not None
        endpoint = settings.otlp_endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/metrics"
        self._exporter = OTLPMetricExporter(endpoint=endpoint, timeout=_TIMEOUT_S)
        self._resource = resource(settings, role)
        self._registry = registry

    def send(self) -> None:
        """All of it, as it is now; waits for the endpoint for some seconds. One that refuses costs these numbers."""
        self._exporter.export(metrics_data(self._registry, self._resource, time.time_ns()))

    def close(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()


def metrics_data(registry: CollectorRegistry, of: Resource, now_ns: int) -> MetricsData:
    """What a collector gets: everything since the role started."""
    metrics = [metric for family in registry.collect() if (metric := _metric(family, now_ns)) is not None]
    scope = ScopeMetrics(InstrumentationScope("headrace"), metrics, "")
    return MetricsData([ResourceMetrics(of, [scope], "")])


def unit_of(name: str) -> str:
    """In UCUM, from the words of a metric's name; what is counted in braces."""
    words = name.split("_")
    unit = next((_UNITS[word] for word in words if word in _UNITS), None)
    return unit or (f"{{{words[-1]}}}" if words[-1].endswith("s") else "1")


def _metric(family: Family, now_ns: int) -> Metric | None:
    by_labels: dict[Labels, list[Sample]] = defaultdict(list)
    for sample in family.samples:
        by_labels[tuple((name, value) for name, value in sample.labels.items() if name != "le")].append(sample)
    if not by_labels:
        return None
    data: Sum | Gauge | Histogram
    if family.type == "histogram":
        points = [_histogram(family.name, labels, samples, now_ns) for labels, samples in by_labels.items()]
        data = Histogram(points, _CUMULATIVE)
    elif family.type == "counter":
        data = Sum(list(_numbers(f"{family.name}_total", by_labels, now_ns)), _CUMULATIVE, is_monotonic=True)
    else:
        data = Gauge(list(_numbers(family.name, by_labels, now_ns)))
    return Metric(family.name, family.documentation, unit_of(family.name), data)


def _numbers(name: str, by_labels: dict[Labels, list[Sample]], now_ns: int) -> Iterator[NumberDataPoint]:
    for labels, samples in by_labels.items():
        for sample in samples:
            if sample.name == name:
                yield NumberDataPoint(dict(labels), _began_ns(samples), now_ns, sample.value)


def _histogram(name: str, labels: Labels, samples: list[Sample], now_ns: int) -> HistogramDataPoint:
    buckets = [sample for sample in samples if sample.name == f"{name}_bucket"]
    below = [0, *(int(sample.value) for sample in buckets)]
    bounds = [float(sample.labels["le"]) for sample in buckets]
    return HistogramDataPoint(
        attributes=dict(labels),
        start_time_unix_nano=_began_ns(samples),
        time_unix_nano=now_ns,
        count=below[-1],
        sum=next(sample.value for sample in samples if sample.name == f"{name}_sum"),
        bucket_counts=[upper - lower for lower, upper in pairwise(below)],
        explicit_bounds=bounds[:-1],  # the last one is infinity
        min=None,  # type: ignore[arg-type]  # optional in the protocol; Prometheus does not keep it
        max=None,  # type: ignore[arg-type]
    )


def _began_ns(samples: Iterable[Sample]) -> int:
    return next((int(sample.value * 1e9) for sample in samples if sample.name.endswith("_created")), 0)
