"""What the model costs, and what it was spared: counted for the metrics, and to decide what is worth waiting for."""

from __future__ import annotations

from collections.abc import Mapping

from app.observe.metrics import EmbedMetrics

_KEPT_RATIO = 0.9  # of the weight of earlier calls at each call: the first one, which is slow, soon counts little


class Economics:
    """Of one embed worker. Called by one thread at a time."""

    def __init__(self, metrics: EmbedMetrics) -> None:
        self._metrics = metrics
        self._seconds = 0.0
        self._characters = 0.0

    def called(self, characters: int, seconds: float) -> None:
        """One call of the model embedded so much text in so long; 0 characters: it failed."""
        self._metrics.model_calls.inc()
        self._metrics.model_seconds.inc(seconds)
        if characters:
            self._seconds = self._seconds * _KEPT_RATIO + seconds
            self._characters = self._characters * _KEPT_RATIO + characters

    def estimate_s(self, characters: int) -> float | None:
        """How long the model would take for so much text, by the exponentially weighted mean of its calls.

        None before the first call.
        """
        return characters * self._seconds / self._characters if self._characters else None

    def chunks(self, sources: Mapping[str, int], spared_characters: int) -> None:
        """Chunks of a batch by where their vectors came from, and how much text the model was spared."""
        for source, count in sources.items():
            self._metrics.chunks.labels(source).inc(count)
        self._metrics.model_seconds_saved.inc(self.estimate_s(spared_characters) or 0.0)

    def cuts(self, sources: Mapping[str, int]) -> None:
        """Documents of a batch by where their cut came from."""
        for source, count in sources.items():
            self._metrics.cuts.labels(source).inc(count)
