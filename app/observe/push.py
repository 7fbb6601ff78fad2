"""Sends a role's metrics to the OTLP endpoint again and again, where the setting asks for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from app.settings import Settings

if TYPE_CHECKING:
    from app.observe.otlp_metrics import OtlpMetrics

_LAST_S = 2.0


class MetricsPush:
    """Begins at once, in a thread of its own; without `otlp_metrics` it does nothing. Failures hold nothing up."""

    def __init__(self, settings: Settings, role: str, registry: CollectorRegistry) -> None:
        self._interval_s = settings.otlp_metrics_interval_s
        self._stopped = threading.Event()
        self._exporter: OtlpMetrics | None = None
        if settings.otlp_metrics:
            from app.observe.otlp_metrics import OtlpMetrics  # a tenth of a second that most starts can do without

            self._exporter = OtlpMetrics(settings, role, registry)
            self._thread = threading.Thread(target=self._run, args=(self._exporter,), name="otlp-metrics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send once more; gives up after two seconds."""
        if self._exporter is None:
            return
        self._stopped.set()
        self._thread.join(_LAST_S)
        self._exporter.close()

    def _run(self, exporter: OtlpMetrics) -> None:
        while not self._stopped.wait(self._interval_s):
            exporter.send()
        exporter.send()
