"""Feeds records from Faust to the shards, a transaction per shard and micro-batch."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faust
import mode

from app.audit.light import LightAudit
from app.crash import crash_point
from app.embed.records import by_partition
from app.event import Event
from app.freshness.objective import WINDOWS_S
from app.freshness.visibility import Visibility
from app.inbox import Inbox
from app.kafka.topics import CollectionTopics
from app.kafka.watch import KafkaWatch
from app.observe.metrics import IndexMetrics
from app.registry import Registry
from app.settings import Settings
from app.shard.apply import AppliedDocument, Change
from app.shard.delete_log import DeleteLog
from app.shard.shard import Shard
from app.shard.shards import Shards
from app.shard.write_back import WriteBack
from app.watchdog import Watchdog
from consumers.faust_app import as_event, is_current, raw_topic
from consumers.joining import joining
from consumers.stalls import StallWatch
from schemas.document_change import utc
from schemas.errors import Retriable, StorageFull

log = logging.getLogger("headrace.index")

MOST_RECORDS = 256  # of one transaction: about 10 ms, after which the first of them can be found
_MOST_BYTES = 8 * 2**20
_ANNOUNCE_S = 1.0
_PAUSE_S = 1.0
_WRITE_BACK_S = 1.0
_RECENT = 30


class IndexWorker:
    """Everything here runs in Faust's event loop; the shards' writes in one thread."""

    def __init__(
        self,
        settings: Settings,
        app: faust.App,
        topics: CollectionTopics,
        registry: Registry,
        visibility: Visibility,
        kafka: KafkaWatch,
        metrics: IndexMetrics,
        to_topics: WriteBack,
        watchdog: Watchdog,
        url: str,
    ) -> None:
        self._settings = settings
        self._app = app
        self._registry = registry
        self._visibility = visibility
        self._kafka = kafka
        self._metrics = metrics
        self._to_topics = to_topics
        self._watchdog = watchdog
        self._stalls = StallWatch(app, kafka, settings.stall_timeout_s, lambda: self._inbox.has_room, watchdog=watchdog)
        self._url = url
        self._inbox = Inbox(settings.inbox_max_events)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._idle = asyncio.Event()
        self._idle.set()
        self._placed = False  # whether the group has said which shards are ours, be it none
        self.shards = Shards(settings, topics.epoch, watchdog, topics.partitions)
        metrics.shards.read = lambda: [shard.status() for shard in self.shards.open.values()]
        self.paused: str | None = None
        self._settling = False
        self.recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self.deletes = DeleteLog()
        self._connect_agent()

    @property
    def ready(self) -> str | None:
        """None when every shard of this worker has caught up, else what is in the way."""
        trouble = self.paused or self.shards.trouble or self._kafka.trouble
        trouble = trouble or self._watchdog.trouble or self._stalls.trouble
        if trouble:
            return trouble  # before what it may be the reason of
        if self._app._consumer is None or not self._app.started:  # `consumer` would make one, in the wrong loop
            return "joining the consumer group"
        if not self._placed:
            return "waiting for its shards"
        behind = [partition for partition, shard in self.shards.open.items() if not shard.ready]
        return f"shards catching up: {behind}" if behind else None

    async def run(self) -> None:
        """Apply records and keep the registry entry alive; ends only by an error or by being cancelled."""
        with joining(self._watchdog, self._app, self._kafka, lambda: self._placed):
            await self._run()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._batches())
            group.create_task(self._announce())
            group.create_task(self._visibility.run())
            group.create_task(self._kafka.run())
            group.create_task(self._write_back())
            group.create_task(self._stalls.run())
            group.create_task(self._watchdog.beat())
            group.create_task(LightAudit(self._settings, self.shards, self._metrics, self._watchdog).run())

    async def drain(self) -> None:
        """Before the end: let the transaction in flight finish, and take the entry out of the registry."""
        self._inbox.close()
        await self._until_idle()
        await asyncio.to_thread(self._registry.withdraw, self._url)

    def close(self) -> None:
        """Close the shards."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.shards.close()

    def next_offset(self, partition: int) -> int | None:
        """Where the shard's file ends; None for a new one."""
        shard = self.shards.open.get(partition)
        return None if shard is None else shard.next_offset

    def opened(self, partition: int, end_offset: int) -> None:
        """The topic ended there when reading started: a shard is ready once it has come so far."""
        shard = self.shards.open.get(partition)
        if shard is not None:
            shard.ready_at = end_offset
            shard.live_from = end_offset if shard.live_from is None else shard.live_from

    def cannot_go_on(self, partition: int, wanted: int, first: int, end: int) -> str | None:
        """Why a shard cannot be continued from its offset with what the topic holds, or None."""
        if not first <= wanted <= end:
            # cut off below us, or shorter than we know it: not the log this shard was built from
            return f"it would go on at offset {wanted}, but the topic holds {first} to {end}"
        # where nothing was written since, nothing was missed
        if wanted < end and self.shards.open[partition].may_miss_deletes:
            return "it was read up to a time longer ago than Kafka keeps tombstones: it may have missed deletes"
        return None

    def rebuild(self, partition: int, reason: str) -> None:
        """Start a shard anew."""
        log.error("shard %d: %s. Rebuilding it from the beginning of the topic", partition, reason)
        self.shards.reset(partition)

    def _connect_agent(self) -> None:
        # acks=False: progress is in the shards' files alone, Faust's own bookkeeping would cost and could lie
        topic = raw_topic(self._app, self._settings.vectors_topic, acks=False)

        async def take_in(stream: Any) -> None:
            async for event in stream.events():
                await self._inbox.put(as_event(event.message))

        self._app.agent(topic, name="index", supervisor_strategy=mode.CrashingSupervisor)(take_in)
        self._app.worker = self
        # awaited before reading starts, and only there: on_partitions_assigned races with it
        self._app.on_rebalance_complete.connect(self._open)
        self._app.on_partitions_revoked.connect(self._revoked)

    async def _open(self, app: faust.App, **_: Any) -> None:
        partitions = {tp.partition for tp in app.consumer.assignment()}
        await self._settle()
        await asyncio.get_running_loop().run_in_executor(
            self._thread, self.shards.release, set(self.shards.open) - partitions
        )
        await asyncio.get_running_loop().run_in_executor(self._thread, self.shards.acquire, partitions)
        self._placed = True
        log.info("shards: %s", sorted(partitions) or "none")

    async def _revoked(self, _app: faust.App, revoked: Iterable[Any], **_: Any) -> None:
        """Every rebalance takes all partitions away first; files stay open until it is known which come back."""
        self._inbox.drop({tp.partition for tp in revoked})
        await self._settle()

    async def _settle(self) -> None:
        self._inbox.drop(set(self.shards.open))
        await self._until_idle()

    async def _until_idle(self) -> None:
        """Let the transaction in flight finish; one that waits for room on the disk is given up."""
        self._settling = True
        await self._idle.wait()
        self._settling = False

    async def _batches(self) -> None:
        while True:
            taken = await self._inbox.take(MOST_RECORDS, _MOST_BYTES)
            self._idle.clear()
            events = [event for event in taken if is_current(self._app, event)]
            crash_point("index.taken")
            try:
                await self._have_memory()
                for partition, own in by_partition(events).items():
                    await self._until_written(partition, own)
            finally:
                self._idle.set()

    async def _have_memory(self) -> None:
        """Wait while too little memory is left: better stale, and seen to be, than killed."""
        while not self._settling and (refusal := self.shards.refusal()) is not None:
            self._pause(refusal)
            await asyncio.sleep(_PAUSE_S)
        self._pause(None)

    async def _until_written(self, partition: int, events: list[Event]) -> None:
        """Apply events of a shard, as often as it takes where the disk is full. Searches go on meanwhile."""
        while not self._settling:  # else they are given up, and come again where the shard is opened next
            try:
                with self._watchdog.watch(f"a transaction of shard {partition}"):
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._apply, partition, events)
            except StorageFull as error:
                self._pause(str(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                self._pause(None)
                return

    def _pause(self, reason: str | None) -> None:
        if reason is not None and self.paused is None:
            log.error("ingestion pauses: %s", reason)
        elif reason is None and self.paused is not None:
            log.info("ingestion goes on")
        self.paused = reason
        self._metrics.paused.set(reason is not None)

    def _apply(self, partition: int, events: list[Event]) -> None:
        shard = self.shards.open.get(partition)
        if shard is None:
            return  # taken away in the meantime: its next owner reads them
        live = shard.live  # what a shard reads to catch up was fresh long ago: it says nothing about freshness now
        started_ns = time.time_ns()
        with self._metrics.apply_seconds.time():
            change = shard.apply(events)
        self._tell(partition, change, started_ns, live=live)
        self.shards.make_room(partition, len(change.labels))

    def _tell(self, partition: int, change: Change, applied_ns: int, *, live: bool) -> None:
        visible_ns = time.time_ns()
        if live:
            self._visibility.saw(change.documents, partition, applied_ns, visible_ns)
        self.deletes.saw(change.documents, partition, visible_ns, live=live)
        for outcome, count in change.outcomes.items():
            self._metrics.records.labels(outcome).inc(count)
        for event, error in change.rejected:
            log.error("record %d of partition %d left out: %s", event.offset, partition, error)
            self._visibility.rejected(event, partition, error)
        for document in change.documents[-_RECENT:]:
            self.recent.append(_recent(document, partition, visible_ns))

    async def _write_back(self) -> None:
        """Give the topics what the shards owe them. A shard that is catching up may read it yet."""
        while True:
            await asyncio.sleep(_WRITE_BACK_S)
            for partition, shard in self.shards.open.items():
                if not shard.ready or self._kafka.trouble is not None:
                    continue
                try:
                    with self._watchdog.watch(
                        f"writing what shard {partition} owes the topics", excuse=lambda: self._kafka.trouble
                    ):
                        await self._write_debts(shard)
                except (Retriable, sqlite3.Error) as error:
                    log.warning("shard %d: what it owes the topics waits: %s", partition, error)

    async def _write_debts(self, shard: Shard) -> None:
        done = await asyncio.to_thread(self._to_topics.run, shard)
        if done:
            await asyncio.get_running_loop().run_in_executor(self._thread, shard.outbox.dead_lettered, done)

    async def _announce(self) -> None:
        while True:
            with self._watchdog.watch("telling Redis of this worker"):
                await asyncio.to_thread(self._registry.announce, self._url)
            if self.shards.failed is not None:
                raise self.shards.failed
            self._measure()
            await asyncio.sleep(_ANNOUNCE_S)

    def _measure(self) -> None:
        for seconds in WINDOWS_S:
            self._metrics.burn.labels(f"{seconds}s").set(self._visibility.objective.burn(seconds))


def _recent(document: AppliedDocument, partition: int, visible_ns: int) -> dict[str, Any]:
    visible_ms = visible_ns // 1_000_000
    return {
        "id": document.id,
        "title": document.title,
        "op": "delete" if document.headers.kind == "delete" else "upsert",
        "shard": partition,
        "event_time": utc(document.headers.event_time_ms),
        "indexed_time": utc(visible_ms),
        "freshness_ms": max(0, visible_ms - document.headers.event_time_ms),
    }
