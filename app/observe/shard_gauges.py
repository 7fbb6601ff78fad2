"""What is known of a worker's shards at the moment of a scrape: one that went elsewhere leaves no number behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from app.shard.status import ShardStatus

_NAMES = {
    "shard_staleness_seconds": "Now minus the time as of which the shard is complete",
    "shard_applied_offset": "Source offset up to which the shard reflects everything",
    "shard_last_change_timestamp_seconds": (
        "When a change of a document last became visible here; a producer that is silent shows in this alone"
    ),
    "shard_documents": "Documents that can be found",
    "shard_chunks": "Chunks that can be found",
    "shard_write_buffer_chunks": "Chunks not yet in the graph",
    "shard_graph_dead_ratio": "Share of the graph's points that are deleted",
    "shard_recall_at_10": "Recall@10 of the newest queries against an exact scan",
    "index_drift": "Documents that the shard does not hold as its topic says, of those looked at",
}


class ShardGauges(Collector):
    """read: the status of every open shard. last_change_s, drift: by partition, told while its shard is open."""

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[ShardStatus]] = tuple
        self.last_change_s: dict[int, float] = {}
        self.drift: dict[int, int] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called at every scrape, by any thread."""
        told = {name: GaugeMetricFamily(f"headrace_{name}", said, labels=["shard"]) for name, said in _NAMES.items()}
        memory = GaugeMetricFamily("headrace_shard_memory_bytes", "Estimated memory by part", labels=["shard", "part"])
        for status in self.read():
            label = str(status.partition)
            for name, value in self._of(status).items():
                if value is not None:
                    told[name].add_metric([label], value)
            for part, size in status.memory_bytes.items():
                memory.add_metric([label, part], size)
        yield from told.values()
        yield memory

    def drift_by_shard(self, partitions: Iterable[int]) -> dict[str, int]:
        """Of those of them that were looked at."""
        return {str(partition): self.drift[partition] for partition in partitions if partition in self.drift}

    def _of(self, status: ShardStatus) -> dict[str, float | None]:
        stale_s = None if status.as_of_ms is None else time.time() - status.as_of_ms / 1000
        return {
            "shard_staleness_seconds": stale_s,
            "shard_applied_offset": -1 if status.applied_offset is None else status.applied_offset,
            "shard_last_change_timestamp_seconds": self.last_change_s.get(status.partition),
            "shard_documents": status.documents,
            "shard_chunks": status.chunks,
            "shard_write_buffer_chunks": status.buffered,
            "shard_graph_dead_ratio": status.graph_dead_ratio,
            "shard_recall_at_10": status.recall_at_10,
            "index_drift": self.drift.get(status.partition),
        }
