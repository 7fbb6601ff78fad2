"""What the model costs, and what it was spared: counted for the metrics, and to decide what is worth waiting for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from threading import Lock

from app.model.runs import RunFacts
from app.observe.metrics import EmbedMetrics

_KEPT_RATIO = 0.9  # of the weight of earlier calls at each call: the first one, which is slow, soon counts little


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What the model did. Runs and tokens are known of local models, padding_tokens beside those of texts."""

    calls: int = 0
    seconds: float = 0.0
    runs: int = 0
    tokens: int = 0
    padding_tokens: int = 0

    def __add__(self, other: ModelCost) -> ModelCost:
        return ModelCost(*(own + more for own, more in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: ModelCost) -> ModelCost:
        return ModelCost(*(own - less for own, less in zip(astuple(self), astuple(other), strict=True)))


class Economics:
    """Of one embed worker. Called by one thread at a time, but for `ran`. spent: since the worker's start."""

    def __init__(self, metrics: EmbedMetrics) -> None:
        self.spent = ModelCost()
        self._lock = Lock()
        self._metrics = metrics
        self._seconds = 0.0
        self._characters = 0.0

    def called(self, characters: int, seconds: float) -> None:
        """One call of the model embedded so much text in so long; 0 characters: it failed."""
        self._spend(ModelCost(calls=1, seconds=seconds))
        self._metrics.model_calls.inc()
        self._metrics.model_seconds.inc(seconds)
        if characters:
            self._seconds = self._seconds * _KEPT_RATIO + seconds
            self._characters = self._characters * _KEPT_RATIO + characters

    def ran(self, run: RunFacts) -> None:
        """One run through a local model, a part of a call; told by any thread."""
        self._spend(ModelCost(runs=1, tokens=run.tokens, padding_tokens=run.padded_tokens - run.tokens))
        self._metrics.saw_run(run)

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

    def _spend(self, cost: ModelCost) -> None:
        with self._lock:
            self.spent += cost
