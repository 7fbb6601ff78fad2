"""Documents that have become visible: searched for over HTTP in a real shard, measured, and traced."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from app.event import Event
from app.freshness.objective import Objective
from app.freshness.visibility import Visibility
from app.observe.metrics import IndexMetrics
from app.shard.serve import ShardServer
from app.shard.shard import Shard
from schemas.headers import Stage
from tests.unit.consumers.parts import until
from tests.unit.freshness.test_traces import MS, TIMES, TRACE, Recorded, attributes
from tests.unit.shard.parts import EPOCH, delete, document, open_shard, random_units

STAGES: dict[Stage, int] = {stage: at for stage, at in TIMES.items() if stage not in ("arrived", "applying", "visible")}
TOLD = {"stages": STAGES, "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
VISIBLE_NS = TIMES["visible"]


class Parts:
    def __init__(self, shard: Shard, visibility: Visibility, recorded: Recorded, metrics: IndexMetrics) -> None:
        self.shard, self.visibility, self.recorded, self.metrics = shard, visibility, recorded, metrics

    def apply(self, *events: Event) -> None:
        change = self.shard.apply(events)
        self.visibility.saw(change.documents, 0, VISIBLE_NS - MS, VISIBLE_NS)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def probes(self, outcome: str) -> float:
        return self.value("headrace_index_probes_total", outcome=outcome)

    def outcome_in_trace(self) -> Any:
        (span,) = [span for span in self.recorded.spans if span.name.startswith("index ")]
        return attributes(span).get("headrace.probe")


@asynccontextmanager
async def running(
    folder: Path,
    probe_one_in: int = 1,
    limit_ms: int = 1000,
    slow_per_s: int = 0,
    probe_per_s: int = 0,
    one_in: int = 1,
    shown: Callable[[Shard], Any] = lambda shard: shard,
) -> AsyncIterator[Parts]:
    """shown: what the HTTP side makes of the shard."""
    shard = open_shard(folder)
    metrics, recorded = IndexMetrics(), Recorded(trace_one_in=one_in)
    shards: Any = SimpleNamespace(open={0: shown(shard)})
    server = ShardServer(shards, deque(), dict, lambda: None, metrics)
    application = web.Application()
    application.add_routes(server.routes())
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (address,) = runner.addresses
    url = f"http://127.0.0.1:{address[1]}"
    objective = Objective(limit_ms, 0.99)
    visibility = Visibility(
        recorded.traces,
        objective,
        metrics,
        url,
        probe_one_in=probe_one_in,
        probe_per_s=probe_per_s,
        slow_per_s=slow_per_s,
    )
    task = asyncio.create_task(visibility.run())
    await asyncio.sleep(0)
    try:
        yield Parts(shard, visibility, recorded, metrics)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()
        server.close()
        shard.close()


async def test_a_document_that_searches_return_is_seen_and_its_trace_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as parts:
        parts.apply(document(0, "a", random_units(2, 1), source_offset=4, **TOLD))
        await until(lambda: parts.probes("seen") == 1)
        assert parts.outcome_in_trace() == "seen"
        assert parts.value("headrace_verified_seconds_count") == 1
        assert parts.value("headrace_latency_seconds_sum") == pytest.approx(0.065)
        assert parts.value("headrace_step_seconds_sum", step="embed") == pytest.approx(0.022)
        assert parts.value("headrace_index_search_seconds_count") == 0, "it is nobody's search"


async def test_a_deleted_document_is_searched_for_by_what_it_was(tmp_path: Path) -> None:
    async with running(tmp_path, probe_one_in=0) as parts:
        parts.apply(document(0, "a", random_units(2, 1), source_offset=4, **TOLD))
    async with running(tmp_path) as parts:
        parts.apply(delete(1, "a", source_offset=5, **TOLD))
        await until(lambda: parts.probes("seen") == 1)
        assert parts.value("headrace_delete_seconds_count") == 1


class Blind:
    """A shard whose searches return nothing, although it has the rows."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)

    def search(self, *_: object, **__: object) -> list[Any]:
        return []


async def test_a_document_that_no_search_returns_is_a_failure_in_metrics_and_trace(tmp_path: Path) -> None:
    async with running(tmp_path, shown=Blind) as parts:
        parts.apply(document(0, "a", random_units(2, 1), source_offset=4, **TOLD))
        await until(lambda: parts.probes("failed") == 1)
        assert parts.outcome_in_trace() == "failed"
        assert parts.value("headrace_verified_seconds_count") == 0


class Haunted(Blind):
    """A shard that goes on returning what it returned before the delete."""

    hits: list[Any] | None = None

    def search(self, *arguments: Any, **options: Any) -> list[Any]:
        self.hits = self.hits or self._shard.search(*arguments, **options)
        return self.hits


async def test_a_deleted_document_that_is_still_returned_is_a_failure(tmp_path: Path) -> None:
    async with running(tmp_path, shown=Haunted) as parts:
        parts.apply(document(0, "a", random_units(1, 1), source_offset=4, **TOLD))
        await until(lambda: parts.probes("seen") == 1)
        parts.apply(delete(1, "a", source_offset=5, **TOLD))
        await until(lambda: parts.probes("failed") == 1)


async def test_a_document_that_was_replaced_before_the_search_is_superseded(tmp_path: Path) -> None:
    async with running(tmp_path) as parts:
        change = parts.shard.apply([document(0, "a", random_units(2, 1), source_offset=4, **TOLD)])
        parts.shard.apply([document(1, "a", random_units(2, 2), source_offset=5, **TOLD)])
        parts.visibility.saw(change.documents, 0, VISIBLE_NS - MS, VISIBLE_NS)
        await until(lambda: parts.probes("superseded") == 1)


async def test_a_document_without_chunks_is_looked_up(tmp_path: Path) -> None:
    async with running(tmp_path) as parts:
        parts.apply(document(0, "a", random_units(0, 1), source_offset=4, **TOLD))
        await until(lambda: parts.probes("seen") == 1)


async def test_a_shard_that_went_elsewhere_is_unknown_and_the_trace_is_written_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as parts:
        change = parts.shard.apply([document(0, "a", random_units(2, 1), source_offset=4, **TOLD)])
        parts.visibility.saw(change.documents, 7, VISIBLE_NS - MS, VISIBLE_NS)
        await until(lambda: parts.probes("unknown") == 1)
        assert parts.outcome_in_trace() == "unknown"


async def test_what_is_written_again_to_mend_a_log_counts_for_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as parts:
        parts.apply(document(0, "a", random_units(2, 1), source_offset=4, stages={}, epoch=EPOCH))
        assert parts.value("headrace_latency_seconds_count") == 0
        assert parts.visibility.objective.window(300) == (0, 0)


async def test_slow_documents_miss_the_objective(tmp_path: Path) -> None:
    async with running(tmp_path, probe_one_in=0, limit_ms=64) as parts:
        parts.apply(document(0, "a", random_units(1, 1), source_offset=4, **TOLD))
        assert parts.visibility.objective.window(300) == (0, 1)
        assert parts.value("headrace_objective_documents_total", outcome="missed") == 1
        assert parts.outcome_in_trace() is None


async def test_what_still_waits_for_its_search_at_the_end_is_traced_without_one(tmp_path: Path) -> None:
    async with running(tmp_path) as parts:
        parts.apply(*(document(at, f"d{at}", random_units(1, at), source_offset=at + 4, **TOLD) for at in range(3)))
        await asyncio.sleep(0)  # they are in the queue, and the search for the first has begun
    traced = [attributes(span) for span in parts.recorded.spans if span.name.startswith("index ")]
    assert sorted(told["document.id"] for told in traced) == ["d0", "d1", "d2"]
    assert not any("headrace.probe" in told for told in traced)


async def test_in_a_backlog_not_every_document_is_traced_for_being_slow(tmp_path: Path) -> None:
    async with running(tmp_path, probe_one_in=0, limit_ms=1, slow_per_s=2, one_in=2**31 - 1) as parts:
        events = [document(n, f"d{n}", random_units(1, 1), source_offset=n, **TOLD) for n in range(5)]
        parts.apply(*events)
        assert len([span for span in parts.recorded.spans if span.name.startswith("index ")]) == 2
        assert parts.value("headrace_objective_untold_total") == 3
        assert parts.value("headrace_objective_documents_total", outcome="missed") == 5


async def test_no_more_is_searched_for_than_a_worker_has_time_for(tmp_path: Path) -> None:
    async with running(tmp_path, probe_per_s=7) as parts:
        parts.apply(*(document(n, f"d{n}", random_units(1, n), source_offset=n, **TOLD) for n in range(40)))
        await until(lambda: parts.probes("seen") == 7)
        traced = [attributes(span) for span in parts.recorded.spans if span.name.startswith("index ")]
        assert len(traced) == 40, "each is the one in one"
        assert parts.probes("skipped") == 33
        assert sum("headrace.probe" in told for told in traced) == 7
