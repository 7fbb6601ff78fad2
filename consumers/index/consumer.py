"""A consumer whose offsets are the shards': it starts where each shard's file ends, not where the group committed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from consumers.worker_consumer import WorkerConsumer

log = logging.getLogger("headrace.index")


class ShardConsumer(WorkerConsumer):
    """Overrides the last seek before reading starts; anything sought in Faust's signals is overwritten by it.

    Before `perform_seek` runs, the worker has opened the assigned shards in `on_rebalance_complete`, and has set
    `app.shards`. It must be quick: Faust gives up for ever when it takes longer than the request timeout.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seeking = asyncio.Lock()  # two of them may run at once

    async def perform_seek(self) -> None:
        """Seek every assigned partition to the offset after the last that its shard holds."""
        async with self._seeking:
            assigned = set(self.assignment())
            if not assigned:
                return
            first, end = await asyncio.gather(self.earliest_offsets(*assigned), self.highwaters(*assigned))
            target = {}
            for tp in assigned:
                wanted = self.app.worker.next_offset(tp.partition)
                if wanted is not None and not first[tp] <= wanted <= end[tp]:
                    # the log was cut off below us, or is shorter than we know it: not the log this shard was built from
                    wanted = self.app.worker.rebuild(tp.partition, wanted, first[tp], end[tp])
                target[tp] = first[tp] if wanted is None else wanted
                self.app.worker.opened(tp.partition, end[tp])
            await self.seek_wait(target)
            for tp, offset in target.items():
                self._read_offset[tp] = offset or None
                self._committed_offset[tp] = offset or None
                for memory in (self._gap, self._acked, self._acked_index):
                    memory.pop(tp, None)
            self.start_offsets = {tp.partition: offset for tp, offset in target.items()}
