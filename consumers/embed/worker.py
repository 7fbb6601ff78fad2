"""Feeds events from Faust to the embed pipeline, one batch in flight, and acknowledges in offset order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import faust
import mode

from app.crash import crash_point
from app.embed.pipeline import EmbedPipeline
from app.embed.records import Reach, RecordFactory
from app.event import Event
from app.inbox import Inbox
from app.kafka.producer import Position, Record, RecordProducer
from app.kafka.reading import TopicReader
from app.kafka.watch import KafkaWatch
from app.observe.metrics import EmbedMetrics
from app.settings import Settings
from app.watchdog import Watchdog
from consumers.faust_app import as_event, is_current, raw_topic
from consumers.joining import joining
from consumers.stalls import StallWatch
from consumers.worker_consumer import WorkerConsumer
from schemas.errors import BrokerUnavailable, LeaseExpired, RecordUnreadable, Rejected, Retriable

log = logging.getLogger("headrace.embed")

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 5.0
REVOKE_S = 25.0  # of the 60 s that the group gives a member to let go of its partitions
STOP_S = 10.0  # of the 30 s that supervisors usually give a process to end
COMMIT_S = 5.0
_GAP_SILENCE_S = 5.0


class EmbedWorker:
    """Owns the batch loop. Everything here runs in Faust's event loop; `pipeline` runs in one thread."""

    def __init__(
        self,
        settings: Settings,
        app: faust.App,
        pipeline: EmbedPipeline,
        records: RecordFactory,
        producer: RecordProducer,
        kafka: KafkaWatch,
        metrics: EmbedMetrics,
        watchdog: Watchdog,
    ) -> None:
        self._settings = settings
        self._app = app
        self._pipeline = pipeline
        self._records = records
        self._producer = producer
        self._kafka = kafka
        self._metrics = metrics
        self._watchdog = watchdog
        self._stalls = StallWatch(app, kafka, settings.stall_timeout_s, lambda: self._inbox.has_room, watchdog=watchdog)
        self._batch_bytes = settings.batch_max_bytes or pipeline.batch_bytes
        self._inbox = Inbox(settings.inbox_max_events)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed-pipeline")
        self._owned: frozenset[int] = frozenset()
        self._leaving: frozenset[int] = frozenset()  # to be given back: what fails now is not tried again
        self._done: dict[int, int] = {}
        self._gaps: dict[int, tuple[int, int]] = {}  # what lies between what was done and the end, at the last round
        self._batch: set[int] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._placed = False  # whether the group has said which partitions are ours, be it none
        self.trouble: str | None = None
        self._marking: set[int] = set()  # partitions whose watermark Kafka has not confirmed yet
        self._unmarked: dict[int, str] = {}  # why it did not
        self._connect_agent()

    @property
    def owned(self) -> list[int]:
        """The partitions whose changes it embeds."""
        return sorted(self._owned)

    @property
    def ready(self) -> str | None:
        """None when the worker does its work, else what is in the way."""
        trouble = self.trouble or self._kafka.trouble or next(iter(self._unmarked.copy().values()), None)
        trouble = trouble or self._watchdog.trouble or self._stalls.trouble
        if trouble:
            return trouble  # before what it may be the reason of
        joined = self._app._consumer is not None and self._app.started  # `consumer` would make one, in the wrong loop
        if not joined or not self._placed:
            return "joining the consumer group"
        return None

    async def run(self) -> None:
        """The batch loop and the watermarks; ends only by an error or by being cancelled."""
        with joining(self._watchdog, self._app, self._kafka, lambda: self._placed):
            await self._run()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._batches())
            group.create_task(self._watermarks())
            group.create_task(self._kafka.run())
            group.create_task(self._stalls.run())
            group.create_task(self._watchdog.beat())

    async def drain(self) -> None:
        """Before the end: let the batch in flight finish, then commit; what does not finish is done again."""
        self._inbox.close()
        await self._settle(STOP_S)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _connect_agent(self) -> None:
        topic = raw_topic(self._app, self._settings.changes_topic)

        async def take_in(stream: Any) -> None:
            # noack: by default an event whose processing fails is acknowledged, and so lost
            stream = stream.noack()
            async for event in stream.events():
                await self._inbox.put(as_event(event.message, receipt=(stream, event)))

        # the default supervisor would skip the event at which the agent failed, and commit past it
        self._app.agent(topic, name="embed", supervisor_strategy=mode.CrashingSupervisor)(take_in)
        self._app.on_partitions_assigned.connect(self._assigned)
        self._app.on_partitions_revoked.connect(self._revoked)

    async def _assigned(self, _app: faust.App, assigned: Iterable[Any], **_: Any) -> None:
        self._owned, self._leaving = frozenset(tp.partition for tp in assigned), frozenset()
        self._done = {}
        self._placed = True
        log.info("partitions assigned: %s", sorted(self._owned) or "none")

    async def _revoked(self, _app: faust.App, revoked: Iterable[Any], **_: Any) -> None:
        """Awaited before the partitions go elsewhere: finish what is in flight, so that nothing is done twice."""
        gone = {tp.partition for tp in revoked}
        self._inbox.drop(gone)
        self._leaving |= gone  # a batch may wait for the lease, which waits for this
        await self._settle(REVOKE_S)
        self._owned -= gone
        self._unmarked = {partition: why for partition, why in self._unmarked.items() if partition not in gone}

    async def _settle(self, within_s: float) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), within_s)
        except TimeoutError:
            committed = False
        else:
            can_commit = self._app._consumer is not None and self._kafka.trouble is None  # without Kafka it only waits
            committed = not can_commit or await self._app.consumer.commit_within(COMMIT_S)
        if not committed:
            log.warning("the batch in flight was not committed in time: it will be done again")

    async def _batches(self) -> None:
        while True:
            events = await self._inbox.take(self._settings.batch_max_documents, self._batch_bytes)
            self._idle.clear()
            self._batch = {event.partition for event in events}
            crash_point("embed.taken")
            try:
                done = await self._process(events)
                with self._watchdog.watch("acknowledging a batch"):
                    for event in done:
                        await event.receipt[0].ack(event.receipt[1])
                        self._done[event.partition] = event.offset
                        self._unmarked.pop(event.partition, None)
                crash_point("embed.acknowledged")
            finally:
                self._batch = set()
                self._idle.set()
            self._metrics.waiting.set(len(self._inbox))

    async def _process(self, events: list[Event]) -> list[Event]:
        """Until it succeeds, or the partitions are ours no more; returns the events to acknowledge."""
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while True:
            owned = [event for event in events if event.partition in self._owned and is_current(self._app, event)]
            if self.trouble is not None:
                owned = [event for event in owned if event.partition not in self._leaving]
            if not owned:
                self.trouble = None
                return []
            try:
                first = {event.partition: self._next_offset(event.partition) for event in owned}
                with self._watchdog.watch("embedding a batch", excuse=lambda: self._kafka.trouble):
                    done = await loop.run_in_executor(self._thread, self._pipeline.process, owned, self._owns, first)
            except Retriable as error:
                if self.trouble is None:
                    log.warning("%s: %s; trying again until it works", type(error).__name__, error)
                self.trouble = f"{type(error).__name__}: {error}"
                self._metrics.retries.inc()
                await asyncio.sleep(backoff_s)
                if not isinstance(error, LeaseExpired):
                    backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            else:
                if self.trouble is not None:
                    log.info("working again")
                self.trouble = None
                return [event for event in owned if event.partition in done]

    def _owns(self, partition: int) -> bool:
        """Whether its records may be written now. Raises LeaseExpired: not known, ask again."""
        if partition not in self._owned:
            return False
        if not self._app.consumer.lease.holds:
            raise LeaseExpired(
                "the consumer group has not answered for a whole session: it may have given the partitions away"
            )
        return True

    async def _watermarks(self) -> None:
        """Tell idle shards that they are up to date. Silence then means trouble: staleness grows."""
        interval_s = self._settings.watermark_interval_ms / 1000
        async with asyncio.TaskGroup() as confirming:
            while True:
                await asyncio.sleep(interval_s)
                if not self._owned or not self._app.started or self._app.rebalancing:
                    continue
                try:
                    with self._watchdog.watch("asking what watermarks may say", excuse=lambda: self._kafka.trouble):
                        records = await self._due_watermarks()
                except Exception as error:  # noqa: BLE001 - whatever the broker's absence looks like; next time then
                    log.debug("no watermarks this time: %s", error)
                    continue
                self._marking |= records.keys()
                for partition, record in records.items():
                    confirming.create_task(self._confirmed(partition, self._producer.deliver([record])))

    async def _due_watermarks(self) -> dict[int, Record]:
        consumer: WorkerConsumer = self._app.consumer
        quiet = {
            tp
            for tp in consumer.assignment()
            if tp.partition in self._owned - self._batch - self._marking
            and not self._inbox.waiting(tp.partition)
            and tp not in consumer.unreadable.partitions
        }
        quiet -= consumer.leaderless(quiet)
        if not quiet or not consumer.lease.holds:
            return {}
        as_of_ms = time.time_ns() // 1_000_000  # before asking: what is written after this is not covered
        first, end = await asyncio.gather(consumer.earliest_offsets(*quiet), consumer.highwaters(*quiet))
        await self._pass_over_markers({tp.partition: end[tp] for tp in quiet if first[tp] < end[tp]})
        reached = {tp: self._next_offset(tp.partition) for tp in quiet}
        return {
            tp.partition: self._records.watermark(tp.partition, Reach(end[tp] - 1, as_of_ms))
            for tp in quiet
            # a log that ends before what was read has been cut off: what comes there is new
            if tp.partition in self._owned and (first[tp] == end[tp] or reached[tp] == end[tp])
        }

    async def _confirmed(self, partition: int, delivered: Future[list[Position]]) -> None:
        """Wait until Kafka has a watermark. One that it refuses is told until it takes another one."""
        try:
            with self._watchdog.watch(f"a watermark of partition {partition}", excuse=lambda: self._kafka.trouble):
                await asyncio.wrap_future(delivered)
        except (Retriable, Rejected) as error:
            if partition in self._owned:
                self._unmarked[partition] = f"watermarks of partition {partition} cannot be written: {error}"
        else:
            self._unmarked.pop(partition, None)
        finally:
            self._marking.discard(partition)

    async def _pass_over_markers(self, ends: Mapping[int, int]) -> None:
        """The last offsets may hold no event: markers of producers' transactions, what was taken back or compacted.

        Faust never tells of them. A partition that has not moved since the last round is read once more by a reader
        of its own, which comes to the end or to an event that is under way.
        """
        gaps = {p: (self._next_offset(p), end) for p, end in ends.items() if self._next_offset(p) < end}
        still = {partition: gap for partition, gap in gaps.items() if self._gaps.get(partition) == gap}
        self._gaps = gaps
        if not still:
            return
        for partition in await asyncio.to_thread(self._empty, still):
            if partition in self._owned and self._next_offset(partition) == still[partition][0]:
                self._done[partition] = still[partition][1] - 1

    def _empty(self, gaps: Mapping[int, tuple[int, int]]) -> set[int]:
        with TopicReader(self._settings, f"{self._settings.collection}-embed-gaps", silence_s=_GAP_SILENCE_S) as reader:
            return {partition for partition, gap in gaps.items() if self._is_empty(reader, partition, gap)}

    def _is_empty(self, reader: TopicReader, partition: int, gap: tuple[int, int]) -> bool:
        try:
            return next(reader.read(self._settings.changes_topic, {partition: gap}), None) is None
        except (BrokerUnavailable, RecordUnreadable) as error:
            log.debug("partition %d is not known to hold nothing from %d to %d: %s", partition, *gap, error)
            return False

    def _next_offset(self, partition: int) -> int:
        """The offset before which every event of the partition has been dealt with."""
        done = self._done.get(partition)
        return self._app.consumer.start_offsets.get(partition, 0) if done is None else done + 1
