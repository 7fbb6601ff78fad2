"""Events that wait for a worker's next batch: FIFO per partition, bounded as a whole, taken without lingering."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from app.event import Event

MAX_WAITING_BYTES = 64 * 2**20  # events of 1 MB must not fill the memory: about a minute of work at full speed


class Inbox:
    """Between a Faust agent and its batch loop, in one event loop.

    Natural batching: while a batch is worked on, events pile up here and form the next one; when the worker is
    idle, one event is a batch at once.
    """

    def __init__(self, max_events: int) -> None:
        self._max_events = max_events
        self._queues: dict[int, deque[Event]] = {}
        self._drops: Counter[int] = Counter()
        self._count = 0
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return self._count

    @property
    def has_room(self) -> bool:
        """Whether `put` returns at once; else nothing more is fetched."""
        return self._room.is_set()

    def waiting(self, partition: int) -> int:
        """Number of events of the partition that wait."""
        return len(self._queues.get(partition, ()))

    def close(self) -> None:
        """Forget what waits and take nothing more in: `put` waits for ever, `take` too."""
        self.drop(set(self._queues))
        self._max_events = 0
        self._room.clear()

    async def put(self, event: Event) -> None:
        """Add an event; waits while the inbox is full, which stops the fetching.

        If its partition is dropped meanwhile, so is the event: it would be ahead of those before it.
        """
        drops = self._drops[event.partition]
        while not self._room.is_set():
            await self._room.wait()
        if self._drops[event.partition] != drops:
            return
        self._queues.setdefault(event.partition, deque()).append(event)
        self._count += 1
        self._bytes += event.size
        self._arrived.set()
        if self._count >= self._max_events or self._bytes >= MAX_WAITING_BYTES:
            self._room.clear()

    async def take(self, max_events: int, max_bytes: int) -> list[Event]:
        """Wait for at least one event, then take what is there, partition by partition in turn.

        Within a partition the order is kept, and what is taken is a prefix. At least one event is taken, however
        large.
        """
        while not self._count:
            self._arrived.clear()
            await self._arrived.wait()
        taken: list[Event] = []
        size = 0
        queues = [queue for queue in self._queues.values() if queue]
        while queues and len(taken) < max_events and (not taken or size < max_bytes):
            for queue in queues:
                event = queue.popleft()
                taken.append(event)
                size += event.size
            queues = [queue for queue in queues if queue]
        self._removed(len(taken), size)
        return taken

    def drop(self, partitions: set[int]) -> int:
        """Forget the waiting events of partitions that were taken away; returns how many."""
        self._drops.update(partitions)
        dropped = 0
        for partition in partitions:
            queue = self._queues.pop(partition, deque())
            dropped += len(queue)
            self._removed(len(queue), sum(event.size for event in queue))
        return dropped

    def _removed(self, count: int, size: int) -> None:
        self._count -= count
        self._bytes -= size
        if self._count < self._max_events and self._bytes < MAX_WAITING_BYTES:
            self._room.set()
