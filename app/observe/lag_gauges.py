"""What is known of the lag at the moment of a scrape: what is not known any more leaves no number behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from app.freshness.lag import LagReport

_LABELS = ("stage", "partition", "replica")


class LagGauges(Collector):
    """read: the newest report, None where the lag is not known."""

    def __init__(self) -> None:
        self.read: Callable[[], LagReport | None] = lambda: None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called at every scrape, by any thread."""
        report = self.read()
        records = GaugeMetricFamily(
            "headrace_lag_records", "Records that wait in Kafka for a stage, from the first one on", labels=_LABELS
        )
        seconds = GaugeMetricFamily(
            "headrace_lag_seconds", "How long the first record that a stage has not taken has waited", labels=_LABELS
        )
        letters = GaugeMetricFamily("headrace_dead_letters", "Records in the dead-letter topic")
        for stage, partition, replica, lag in [] if report is None else report.rows():
            records.add_metric((stage, str(partition), replica), lag.records)
            seconds.add_metric((stage, str(partition), replica), lag.seconds)
        if report is not None and report.dead_letters is not None:
            letters.add_metric((), report.dead_letters)
        yield from (records, seconds, letters)
        yield GaugeMetricFamily(
            "headrace_lag_known", "1 while Kafka says how far the workers are behind", value=float(report is not None)
        )
