"""A little of an audit all the time: does a shard hold what a random slice of its topic says?"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from app.event import Event
from app.kafka.reading import TopicReader
from app.observe.metrics import IndexMetrics
from app.order import DocumentOrder
from app.settings import Settings
from app.shard.shard import Shard
from app.shard.shards import Shards
from app.watchdog import Watchdog
from schemas.errors import InvalidVectorRecord
from schemas.headers import decode_headers

log = logging.getLogger("headrace.audit")

SLICE_RECORDS = 200
_MOST_KNOWN = 1000  # drifted documents of a shard that are looked at again in every round
_KAFKA_S = 5.0
_LEAST_S = 60.0  # of a shard: Kafka is given up after some silences
_PREFETCH_KB = 1024  # the slice is all that is wanted
_SECOND_LOOK_S = 1.0


class LightAudit:
    """Looks at each open shard of an index worker every `audit_interval_s`: as much as takes some milliseconds.

    Content is not compared, and documents that the topic does not have are not found: that is `headrace audit`.
    """

    def __init__(
        self, settings: Settings, shards: Shards, metrics: IndexMetrics, watchdog: Watchdog | None = None
    ) -> None:
        self._settings = settings
        self._shards = shards
        self._metrics = metrics
        self._watchdog = watchdog or Watchdog(0)
        self._drifted: dict[int, dict[str, DocumentOrder]] = {}
        self._told: set[tuple[int, str]] = set()
        self._reader: TopicReader | None = None

    async def run(self) -> None:
        """For ever, or not at all with an interval of 0. Raises nothing but for being cancelled."""
        if self._settings.audit_interval_s == 0:
            return
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="light-audit")
        try:
            while True:
                await asyncio.sleep(self._settings.audit_interval_s)
                await loop.run_in_executor(thread, self.look)
        finally:
            thread.submit(self._close)
            thread.shutdown(wait=False)

    def look(self) -> None:
        """One round over all shards; blocks for some milliseconds a shard, and a second if something is suspect."""
        for partition, shard in self._shards.open.items():
            try:
                self._look(partition, shard)
            except sqlite3.ProgrammingError:  # given away meanwhile
                self._drifted.pop(partition, None)
            except Exception as error:
                # it says nothing about the shard, and whoever is away is reported elsewhere
                log.debug("shard %d was not audited: %r", partition, error, exc_info=True)

    def _look(self, partition: int, shard: Shard) -> None:
        with self._watchdog.watch(f"the light audit of shard {partition}", least_s=_LEAST_S):
            self._compare(partition, shard)

    def _compare(self, partition: int, shard: Shard) -> None:
        said = self._slice(partition, shard)
        wanted = said | self._drifted.get(partition, {})
        suspects = _missing(shard, wanted)
        if suspects:
            time.sleep(_SECOND_LOOK_S)
            suspects = _missing(shard, suspects)
        self._metrics.audited.inc(len(said))
        self._metrics.shards.drift[partition] = len(suspects)
        self._drifted[partition] = dict(list(suspects.items())[:_MOST_KNOWN])
        for document_id, order in self._drifted[partition].items():
            if (partition, document_id) not in self._told:
                self._told.add((partition, document_id))
                log.error(
                    "shard %d does not hold %s as the topic says (change %d). Run `headrace audit`, and with --repair "
                    "to mend it",
                    partition,
                    document_id,
                    order.source_offset,
                )

    def _slice(self, partition: int, shard: Shard) -> dict[str, DocumentOrder]:
        """What some records say that the shard has applied, by document; the last of them counts."""
        topic = self._settings.vectors_topic
        held = shard.rows_of(())
        reader = self._opened()
        first, _ = reader.span(topic, partition)
        if held.next_offset <= first:
            return {}
        start = random.randint(first, max(first, held.next_offset - SLICE_RECORDS))  # noqa: S311 - a sample
        said: dict[str, DocumentOrder] = {}
        slice_of = {partition: (start, min(start + SLICE_RECORDS, held.next_offset))}
        for document_id, order in _orders(reader.read(topic, slice_of), held.epoch):
            if document_id not in said or order.supersedes(said[document_id]):
                said[document_id] = order
        return said

    def _opened(self) -> TopicReader:
        if self._reader is None:
            self._reader = TopicReader(
                self._settings, f"{self._settings.collection}-audit", silence_s=_KAFKA_S, prefetch_kb=_PREFETCH_KB
            )
        return self._reader

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _missing(shard: Shard, wanted: dict[str, DocumentOrder]) -> dict[str, DocumentOrder]:
    """Those that the shard does not hold, or only in an older state; a soft-deleted row counts."""
    rows = {row.id: row.order for row in shard.rows_of(list(wanted)).rows}
    return {
        document_id: order
        for document_id, order in wanted.items()
        if document_id not in rows or order.supersedes(rows[document_id])
    }


def _orders(events: Iterable[Event], epoch: str) -> Iterable[tuple[str, DocumentOrder]]:
    for event in events:
        try:
            headers = decode_headers(event.headers)
        except InvalidVectorRecord:
            continue
        if headers.kind != "watermark" and headers.epoch == epoch and event.key is not None:
            yield event.key.decode(errors="replace"), DocumentOrder(headers.version, headers.source_offset)
