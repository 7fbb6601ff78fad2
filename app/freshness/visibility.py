"""What follows once documents can be found: their times are measured, some are searched for, some traced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from app.event import Event
from app.freshness.objective import Objective, PerSecond
from app.freshness.probe import OUTCOMES, Probe, Probed
from app.freshness.recent import RecentDocuments, whole
from app.freshness.traces import FreshnessTraces, steps
from app.observe.metrics import IndexMetrics
from app.observe.tracing import is_chosen, trace_id_of
from app.shard.apply import AppliedDocument

MOST_WAITING = 200  # probes; beyond that documents are traced without one
Seen = tuple[AppliedDocument, int, bool]  # partition; whether it is traced as slow


class Visibility:
    """`saw` is called by the thread that applies records, everything else in one event loop.

    url: of this index worker, where documents are searched for. probe_one_in: of the documents that are not slow, by
    trace-id hash; 0: no document is searched for. probe_per_s: most that are searched for; slow_per_s: most that are
    traced for being slow alone; 0: no limit. In a backlog all are slow, and the worker needs its time for that.
    """

    def __init__(
        self,
        traces: FreshnessTraces,
        objective: Objective,
        metrics: IndexMetrics,
        url: str,
        *,
        probe_one_in: int,
        probe_per_s: int,
        slow_per_s: int,
    ) -> None:
        self._traces = traces
        self.objective = objective
        self.recent = RecentDocuments()
        self._metrics = metrics
        self._url = url
        self._probe_one_in = probe_one_in
        self._slow_budget, self._probe_budget = PerSecond(slow_per_s), PerSecond(probe_per_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Queue[Seen] = asyncio.Queue(MOST_WAITING)
        for outcome in (*OUTCOMES, "skipped"):
            metrics.probes.labels(outcome)  # from 0 on: else the first one of a kind is no increase
        for met in ("met", "missed"):
            metrics.objective.labels(met)

    async def run(self) -> None:
        """Search for documents, one after another; ends only by being cancelled, and then traces those that wait."""
        self._loop = asyncio.get_running_loop()
        try:
            async with aiohttp.ClientSession(trust_env=False) as session:
                probe = Probe(session, self._url)
                while True:
                    await self._probe(probe, *await self._waiting.get())
        finally:
            self._loop = None
            while not self._waiting.empty():
                document, partition, slow = self._waiting.get_nowait()
                self._trace(document, partition, slow=slow, probed=None)

    async def _probe(self, probe: Probe, document: AppliedDocument, partition: int, slow: bool) -> None:
        probed = None
        try:
            probed = await probe.look(document, partition)
            self._metrics.probes.labels(probed.outcome).inc()
            if probed.outcome == "seen":
                self._metrics.verified.observe(_seconds_since_sent(document, probed.at_ns))
        finally:
            self._trace(document, partition, slow=slow, probed=probed)

    def saw(self, documents: Sequence[AppliedDocument], partition: int, applying_ns: int, visible_ns: int) -> None:
        """Documents of one transaction, which began and ended then; not what was written again to mend a log."""
        met = missed = untold = skipped = 0
        for document in documents:
            stages = document.headers.stages
            if "produced" not in stages:
                continue
            stages["applying"], stages["visible"] = applying_ns, visible_ns
            self.recent.saw(stages)
            latency_s = _seconds_since_sent(document, visible_ns)
            slow = self.objective.is_slow(latency_s * 1000)
            met, missed = met + (not slow), missed + slow
            told = slow and self._slow_budget.take()
            untold += slow and not told
            self._measure(document, latency_s, traced=self._traces.wants(document.headers, slow=told))
            chosen = self._probe_one_in and (told or is_chosen(document.headers.traceparent, self._probe_one_in))
            if chosen and (loop := self._loop) is not None and self._probe_budget.take():
                loop.call_soon_threadsafe(self._ask_for, (document, partition, told))
            else:
                skipped += bool(chosen)
                self._trace(document, partition, slow=told, probed=None)
        if met or missed:
            self._metrics.shards.last_change_s[partition] = visible_ns / 1e9
        self._metrics.objective.labels("met").inc(met)
        self._metrics.objective.labels("missed").inc(missed)
        self._metrics.slow_untold.inc(untold)
        self._metrics.probes.labels("skipped").inc(skipped)
        self.objective.count(met, missed)

    def told(self) -> dict[str, Any]:
        """Where the time of the newest documents went, for GET /shards; called by the loop of HTTP."""
        told = self.recent.told(self.objective)
        return told | whole([("", told)], self.objective.limit_ms, self.objective.ratio)

    def rejected(self, event: Event, partition: int, error: Exception) -> None:
        """A record that cannot be applied."""
        self._traces.rejected(event, partition, error)

    def _ask_for(self, seen: Seen) -> None:
        if self._loop is not None and not self._waiting.full():
            self._waiting.put_nowait(seen)
        else:
            document, partition, slow = seen
            self._metrics.probes.labels("skipped").inc()
            self._trace(document, partition, slow=slow, probed=None)

    def _trace(self, document: AppliedDocument, partition: int, *, slow: bool, probed: Probed | None) -> None:
        failed = probed is not None and probed.failed
        if self._traces.wants(document.headers, slow=slow or failed):
            slow = self.objective.is_slow(_seconds_since_sent(document, document.headers.stages["visible"]) * 1000)
            self._traces.write(document, partition, slow=slow, probed=probed)

    def _measure(self, document: AppliedDocument, latency_s: float, *, traced: bool) -> None:
        headers = document.headers
        exemplar = {"trace_id": trace_id_of(headers.traceparent) or ""} if traced else None
        freshness_s = max(0.0, headers.stages["visible"] / 1e9 - headers.event_time_ms / 1e3)
        self._metrics.freshness.observe(freshness_s, exemplar)
        self._metrics.latency.observe(latency_s, exemplar)
        if headers.kind == "delete":
            self._metrics.deletes.observe(latency_s, exemplar)
        for step, begin_ns, end_ns in steps(headers.stages):
            self._metrics.steps[step].observe((end_ns - begin_ns) / 1e9, exemplar)


def _seconds_since_sent(document: AppliedDocument, at_ns: int) -> float:
    return max(0.0, (at_ns - document.headers.stages.get("produced", at_ns)) / 1e9)
