"""A consumer whose offsets are the shards': it starts where each shard's file ends, not where the group committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consumers.worker_consumer import WorkerConsumer


class ShardConsumer(WorkerConsumer):
    """Overrides where the last seek before reading starts goes; what is sought in Faust's signals is overwritten by it.

    By then the worker has opened the assigned shards in `on_rebalance_complete`, and has set `app.worker`.
    """

    async def _places(self, assigned: set[Any], first: Mapping[Any, int], end: Mapping[Any, int]) -> dict[Any, int]:
        """The offset after the last that each shard holds."""
        worker, target = self.app.worker, {}
        for tp in assigned:
            wanted = worker.next_offset(tp.partition)
            reason = None if wanted is None else worker.cannot_go_on(tp.partition, wanted, first[tp], end[tp])
            if reason is not None:
                wanted = worker.rebuild(tp.partition, reason)
            target[tp] = first[tp] if wanted is None else wanted
            worker.opened(tp.partition, end[tp])
        return target
