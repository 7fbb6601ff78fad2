"""What keeps one shard's graph good while everything in it changes: recall measured, rebuilds, snapshots."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.settings import Settings
from app.shard.index import HnswIndex
from app.shard.memory import available_bytes, give_back
from app.shard.rebuild import Rebuild
from app.shard.recall import RecallMeter
from app.shard.snapshot import SnapshotFacts, write_snapshot
from app.shard.store import now_ms

log = logging.getLogger("headrace.shard")

_QUIET_S = 30.0  # without new rows: then there is time for what is not urgent
# Worth a rebuild in quiet times: a query takes 7 % longer
_QUIET_DEAD_RATIO = 0.05
_LEAST_DEAD = 1000  # points; fewer cost nothing that can be measured
_LEAST_SAMPLES = 32
_CHANGED_RATIO = 0.1  # a graph that hardly changed since it was built would be no better the next time
_SNAPSHOT_RATIO = 0.1  # of the points that a start would have to add anew
_SNAPSHOT_POINTS = 5000  # two seconds of building
_QUIET_SNAPSHOT_POINTS = 1000
_SNAPSHOT_REST_S = 30.0
_AGAIN_S = 60.0  # after something that failed


@dataclass(frozen=True, slots=True)
class UpkeepStatus:
    """For people. rebuild_reason, rebuild_seconds: of the last one that ended. snapshot_ms: when it was written."""

    recall_at_10: float | None = None
    recall_samples: int = 0
    rebuilding: bool = False
    rebuild_progress: float = 0.0
    rebuild_reason: str | None = None
    rebuild_seconds: float | None = None
    snapshot_chunks: int | None = None
    snapshot_ms: int | None = None


class Upkeep:
    """Of one shard. `run` by one thread, again and again; `status` and `stop` by any.

    still_seen: see Rebuild.
    """

    def __init__(self, name: str, path: Path, settings: Settings, still_seen: Callable[[], int]) -> None:
        self._still_seen = still_seen
        self.recall = RecallMeter()
        self._name = name
        self._path = path
        self._settings = settings
        self._status = UpkeepStatus()
        self._rebuild: Rebuild | None = None
        self._stopped = False
        self._saved = 0  # points and deaths that the snapshot knows
        self._built = 0
        self._next: dict[str, float] = {}  # when each kind of work may begin again
        self._quiet_since = time.monotonic()
        self._seen = -1

    @property
    def status(self) -> UpkeepStatus:
        """See UpkeepStatus."""
        return replace(
            self._status,
            recall_at_10=self.recall.value,
            recall_samples=self.recall.samples,
            rebuilding=self._rebuild is not None,
            rebuild_progress=self.rebuild_progress,
        )

    @property
    def rebuild_progress(self) -> float:
        """Of the rebuild that is under way, 0 to 1; 0 where none is."""
        rebuild = self._rebuild
        return 0.0 if rebuild is None else rebuild.progress

    def stop(self) -> None:
        """No more work; `run` returns soon."""
        self._stopped = True
        rebuild = self._rebuild
        if rebuild is not None:
            rebuild.stop()

    def loaded(self, facts: SnapshotFacts, index: HnswIndex) -> None:
        """The graph came from this snapshot."""
        self._saved = index.generation.graph.changes
        self._status = replace(self._status, snapshot_chunks=facts.points, snapshot_ms=facts.written_ms)

    def run(self, index: HnswIndex, facts: Callable[[], SnapshotFacts]) -> None:
        """Do what is due; takes minutes where a large graph is rebuilt. facts: of a snapshot that is written now."""
        if index.generation.end != self._seen:
            self._seen, self._quiet_since = index.generation.end, time.monotonic()
        if self._may("recall", self._settings.recall_interval_s):
            self.recall.measure(index)
        reason = self._rebuild_reason(index)
        if reason is not None and self._may("rebuild", 0.0):
            self._run_rebuild(index, reason)
        if self._snapshot_due(index) and self._may("snapshot", _SNAPSHOT_REST_S):
            self._run_snapshot(index, facts)
            give_back()

    def _may(self, what: str, again_s: float) -> bool:
        now = time.monotonic()
        if self._stopped or now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + again_s
        return True

    @property
    def _quiet(self) -> bool:
        return time.monotonic() - self._quiet_since > _QUIET_S

    def _rebuild_reason(self, index: HnswIndex) -> str | None:
        graph, ratio = index.generation.graph, index.dead_ratio
        if ratio * graph.count >= _LEAST_DEAD:
            if ratio > self._settings.rebuild_dead_ratio:
                return f"{ratio:.0%} of its points are dead"
            if self._quiet and ratio > _QUIET_DEAD_RATIO:
                return f"{ratio:.0%} of its points are dead, and there is time"
        value, target = self.recall.value, self._settings.recall_target
        changed = graph.changes - self._built > _CHANGED_RATIO * graph.count
        if value is not None and value < target and self.recall.samples >= _LEAST_SAMPLES and changed:
            return f"recall@10 is {value:.3f}, the target {target}"
        return None

    def _run_rebuild(self, index: HnswIndex, reason: str) -> None:
        generation = index.generation
        needed = generation.graph.memory_bytes + generation.rows.memory_bytes(generation.chunks)
        left = available_bytes()
        if left is not None and left - needed < self._settings.memory_reserve_mb * 2**20:
            log.warning("%s is not rebuilt (%s): it needs %d MiB of memory", self._name, reason, needed >> 20)
            self._next["rebuild"] = time.monotonic() + _AGAIN_S
            return
        log.info("%s: rebuilding the graph: %s", self._name, reason)
        started = time.perf_counter()
        self._rebuild = Rebuild(index, self._settings.rebuild_cpu_share, self._still_seen)
        if self._stopped:
            return
        try:
            swapped = self._rebuild.run()
        finally:
            self._rebuild = None
        if swapped:
            spent_s = time.perf_counter() - started
            self._built, self._saved = index.generation.graph.changes, 0
            self._status = replace(self._status, rebuild_reason=reason, rebuild_seconds=round(spent_s, 3))
            self.recall.forget()
            give_back()
            log.info("%s: graph of %d points built anew in %.1f s", self._name, index.generation.graph.count, spent_s)

    def _snapshot_due(self, index: HnswIndex) -> bool:
        unsaved = abs(index.generation.graph.changes - self._saved)
        enough = max(_SNAPSHOT_POINTS, _SNAPSHOT_RATIO * index.generation.graph.count)
        return unsaved >= enough or (self._quiet and unsaved >= _QUIET_SNAPSHOT_POINTS)

    def _run_snapshot(self, index: HnswIndex, facts: Callable[[], SnapshotFacts]) -> None:
        needed = index.generation.graph.memory_bytes
        left = available_bytes()
        if left is not None and left - needed < self._settings.memory_reserve_mb * 2**20:
            log.warning("%s: no snapshot is written: it needs %d MiB of memory", self._name, needed >> 20)
            self._next["snapshot"] = time.monotonic() + _AGAIN_S
            return
        with index.changing:  # queries go on
            generation = index.generation
            saved, points = generation.graph.changes, generation.graph.count
            state, held_s = generation.graph.state()
            state["row_labels"] = generation.rows.label[: generation.start].copy()
            told = facts()  # after the copy: a snapshot must not be ahead of what its head says
        started = time.perf_counter()
        try:
            size = write_snapshot(self._path, replace(told, points=points, written_ms=now_ms()), state)
        except OSError as error:
            log.warning("%s: no snapshot of the graph could be written: %s", self._name, error)
            self._next["snapshot"] = time.monotonic() + _AGAIN_S
            return
        self._saved = saved
        self._status = replace(self._status, snapshot_chunks=points, snapshot_ms=now_ms())
        log.info(
            "%s: snapshot of %d points, %d MiB, in %.1f s (queries waited for %.0f ms of it)",
            *(self._name, points, size >> 20, time.perf_counter() - started, held_s * 1000),
        )
