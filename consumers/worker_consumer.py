"""Faust's Kafka consumer as both workers need it: its fetches, its lease, its commits and its seeks."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Coroutine, Generator, Iterable, Mapping
from functools import partial
from typing import Any

from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from mode.services import WaitResults

from app.crash import crash_point
from app.kafka.lease import GroupLease
from consumers import silence
from consumers.asking import AskingThread
from consumers.unreadable import UnreadableRecords

log = logging.getLogger("headrace.worker")

_COMMIT_S = 5.0
# One fetch is under way at a time: a partition that has just been drained waits behind the long poll of the quiet
# ones. At 20 ms an idle worker asks 50 times a second, which costs it about 2 % of a core.
_FETCH_MAX_WAIT_MS = 20


class _ConsumerThread(AskingThread):
    async def on_start(self) -> None:
        """Let every heartbeat that the group answers renew the lease; the first one goes out at once after joining."""
        await super().on_start()
        silence.attach(self._consumer)
        self.consumer.unreadable.attach(self._consumer)
        coordinator, lease = self._consumer._coordinator, self.consumer.lease
        heartbeat, rejoin = coordinator._do_heartbeat, coordinator._do_rejoin_group

        async def renewing() -> bool:
            sent_s = lease.begin()
            answered = bool(await heartbeat())
            if answered:
                lease.renew(sent_s)
            return answered

        async def rejoining(subscription: Any) -> bool:
            joined = bool(await rejoin(subscription))
            if joined:
                await renewing()
            return joined

        coordinator._do_heartbeat, coordinator._do_rejoin_group = renewing, rejoining
        commit, mark = coordinator.commit_offsets, self.app.collection.mark

        async def marking(assignment: Any, offsets: Mapping[Any, Any]) -> None:
            await commit(assignment, {tp: OffsetAndMetadata(at.offset, mark) for tp, at in offsets.items()})

        coordinator.commit_offsets = marking

    async def committed_places(self, tps: set[Any]) -> dict[Any, OffsetAndMetadata]:
        """What the group has committed, and under which mark; a partition without an offset is left out."""
        asked = [TopicPartition(*tp) for tp in tps]
        found = await self.call_thread(self._consumer._coordinator.fetch_committed_offsets, asked)
        return {tp: at for tp, at in found.items() if at.offset >= 0}

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust has no setting for this, and waits 1500 ms: gaps of 0.6 s were measured
        consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS
        consumer._isolation_level = "read_committed"  # what a producer's transaction took back was never a change
        return consumer


class WorkerConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer with a shorter long poll and seeks of its own; remembers where reading started.

    lease: how long its partitions are surely its own. unreadable: those of them that Kafka cannot give.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_offsets: dict[int, int] = {}
        self._seeking = asyncio.Lock()  # two seeks may run at once
        self._sought = True
        self.lease = GroupLease(self.app.conf.broker_session_timeout)
        self.unreadable = UnreadableRecords()

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        """Faust awaits each record's callback through this, in four tasks; it nearly always ends at once.

        So run the callback a first step here, and leave to Faust what really has to wait. Measured: 1.4 times the
        events a second.
        """
        callback = coros[0]
        if not asyncio.iscoroutine(callback) or self._stopped.is_set() or self._crashed.is_set():
            return await super().wait_first(*coros, timeout=timeout)
        try:
            waits_for = callback.send(None)
        except StopIteration as done:
            for coro in coros[1:]:
                coro.close()
            return WaitResults([callback], [done.value], False)
        return await super().wait_first(_rest(callback, waits_for), *coros[1:], timeout=timeout)

    async def commit_within(self, seconds: float) -> bool:
        """Commit all that is acknowledged; whether that was done in time. It is never cut off: Faust would begin
        another commit, without limit."""
        committing = asyncio.ensure_future(self._commit_acked())
        done, _ = await asyncio.wait({committing}, timeout=seconds)
        for task in done:
            task.result()
        return bool(done)

    async def _commit_acked(self) -> None:
        """A commit that finds another one under way only waits for that, which may have begun before the last event."""
        await self.commit()
        if any(self._acked.values()):
            await self.commit()

    def leaderless(self, partitions: Iterable[Any]) -> frozenset[Any]:
        """Those of them that no broker leads: a question about their offsets is not answered."""
        return frozenset(self._thread.leaderless(partitions))

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        """As Faust does it."""
        committed = bool(await super().commit(*args, **kwargs))
        if committed:
            crash_point("embed.committed")
        return committed

    def _new_offset(self, tp: Any) -> int | None:
        """One past the last acknowledged event: they are acknowledged in offset order, so all before it are done.

        Faust looks for gaps, with bounds that are off by one: it commits past an event in flight, and gets past one
        gap of a compacted log a commit.
        """
        acked = self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return max(acked) + 1 if acked else None

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Nothing: no gap is looked for."""

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Commit first: Faust forgets what was acknowledged before it tells anybody, and all of it would come again."""
        await self.commit_within(_COMMIT_S)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Read nothing before the seek: Faust stops reading only where something is taken away before."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    def on_buffer_full(self, tp: Any) -> None:
        """Nothing: a full buffer holds up the delivery of the next event anyhow.

        Faust would stop fetching as well, and sleep a whole second once every partition is full. Measured: twice the
        events a second without.
        """

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        """Fetch from where a seek has put us: one that failed is done again, of which Faust would only warn.

        Records from before that place mean that the log has been cut off below it, and is read from its beginning:
        Faust would drop all up to there, those that are new among them.
        """
        if not self._sought:
            await self.perform_seek()
        found = await super()._getmany(active_partitions, timeout)
        if any(
            records and records[0].offset < (self._read_offset.get(tp) or 0) for tp, records in (found or {}).items()
        ):
            self._sought = False
            return {}
        return found

    async def perform_seek(self) -> None:
        """Seek every assigned partition to where it goes on, be it its very first record.

        Faust calls it before reading starts, and after it has dropped what a fetch brought while reading was stopped:
        a fetch outlives a rebalance, and then brings the first records of the new partitions. Faust's own leaves a
        partition without a committed offset where it is: behind what was dropped.
        It must be quick: Faust gives up for ever when it takes longer than the request timeout.
        """
        async with self._seeking:
            self._sought = False
            assigned = set(self.assignment())
            if assigned:
                first, end = await asyncio.gather(self.earliest_offsets(*assigned), self.highwaters(*assigned))
                target = await self._places(assigned, first, end)
                await self.seek_wait(target)
                for tp, offset in target.items():
                    self._read_offset[tp] = self._committed_offset[tp] = offset or None
                self.start_offsets = {tp.partition: offset for tp, offset in target.items()}
            self._sought = True

    async def _places(self, assigned: set[Any], first: Mapping[Any, int], end: Mapping[Any, int]) -> dict[Any, int]:
        """Where each partition goes on, within `first` and `end`: at the committed offset, else at its beginning.

        Events that Kafka has deleted unread are lost, and where the log is shorter than what was read, Faust would
        drop all up to there: it would say neither.
        """
        committed = await self._thread.committed_places(assigned)
        target = {}
        for tp in assigned:
            place, mark = committed.get(tp, (0, ""))
            if mark and not self.app.collection.began(mark):
                log.warning(
                    "%s %d: offset %d was committed in another life of the topic, which was made again since: reading "
                    "from the beginning",
                    *(tp.topic, tp.partition, place),
                )
                place = first[tp]
            if place < first[tp]:
                log.error(
                    "%s %d: events %d to %d were deleted by Kafka before they were read: what they said of their "
                    "documents is lost. Publish those again, and give the topic more retention.",
                    *(tp.topic, tp.partition, place, first[tp] - 1),
                )
            elif place > end[tp]:
                log.error(
                    "%s %d was read up to offset %d and ends at %d now: Kafka has lost events. Reading again from its "
                    "beginning; publish again what was published last.",
                    *(tp.topic, tp.partition, place, end[tp]),
                )
            target[tp] = place if first[tp] <= place <= end[tp] else first[tp]
        return target


async def _rest(callback: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    return await _resumed(callback, waits_for)


@types.coroutine
def _resumed(callback: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine whose first step has been run, and has given `waits_for` to the event loop."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001 - cancellation and all: it belongs to the coroutine
            step = partial(callback.throw, error)
        else:
            step = partial(callback.send, sent)
        try:
            waits_for = step()
        except StopIteration as done:
            return done.value
