"""Questions about offsets, asked beside fetches and commits instead of in a queue with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from faust.transport.drivers import aiokafka as driver

_NOBODY = (None, -1)  # as aiokafka says it: the partition is not known, or has no leader


class AskingThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust has two workers for whatever is called in this thread, each fetch and commit included.

    aiokafka repeats a question for the offsets of a partition that no broker leads for 90 s: two of them held up the
    reading and committing of all partitions.
    """

    async def earliest_offsets(self, *partitions: Any) -> Any:
        """As Faust's, beside its queue."""
        return await self._asked(self._ensure_consumer().beginning_offsets, partitions)

    async def highwaters(self, *partitions: Any) -> Any:
        """As Faust's, beside its queue."""
        return await self._asked(self._highwaters, partitions)

    async def position(self, tp: Any) -> Any:
        """As Faust's, beside its queue."""
        return await self._asked(self._ensure_consumer().position, tp)

    def leaderless(self, partitions: Iterable[Any]) -> frozenset[Any]:
        """Those of them that no broker leads, as far as is known. From any thread."""
        cluster = self._ensure_consumer()._client.cluster
        return frozenset(tp for tp in partitions if cluster.leader_for_partition(tp) in _NOBODY)

    async def _asked(self, question: Callable[[Any], Awaitable[Any]], about: Any) -> Any:
        async def ask() -> Any:
            return await question(about)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), self.thread_loop))
