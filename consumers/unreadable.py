"""Records that Kafka holds but cannot give as they were written: their partition waits, nothing is skipped.

And those whose headers aiokafka cannot decode, though they are as they were written: they are made so that it can.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

from aiokafka import errors
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from consumers.header_names import spelt_out

log = logging.getLogger("headrace.worker")

RETRY_S = 1.0  # as long as a partition is not asked for; each time a whole fetch of it is read for nothing
_HEAD = struct.Struct(">qi")  # of a batch: offset, and the length of what follows
_SHORTEST = 14
# what a broker answers for a partition that it has and cannot read
_BROKER_ERRORS = {
    errors.UnknownError.errno: "Kafka fails to read it (unknown server error, see the broker's log)",
    errors.CorruptRecordException.errno: "Kafka says that it is corrupt",
    errors.KafkaStorageError.errno: "Kafka cannot read its disk",
}


class UnreadableRecords:
    """Looks through every answer to a fetch, before aiokafka does, and takes out what is damaged.

    aiokafka itself raises while it hands over records: that ended the worker, with all its partitions, at every start
    anew. It reads a first batch that is cut off as too large, and goes on behind it.
    """

    def __init__(self) -> None:
        self._places: dict[TopicPartition, tuple[int, str]] = {}  # offset, what is wrong
        self._consumer: Any = None

    def attach(self, consumer: Any) -> None:
        """Begin, in the thread of an AIOKafkaConsumer that has been started."""
        self._consumer = consumer
        client, fetcher = consumer._client, consumer._fetcher
        fetcher._check_crcs = False  # it is done here
        send = client.send

        async def looking(node_id: Any, request: Any, **options: Any) -> Any:
            response = await send(node_id, request, **options)
            if isinstance(request, FetchRequest):
                self._look(request, response)
            return response

        client.send = looking

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """Those that wait."""
        return frozenset(self._places)

    @property
    def trouble(self) -> str | None:
        """For /readyz. From any thread."""
        return _told(dict(self._places)) if self._places else None

    def _look(self, request: Any, response: Any) -> None:
        asked = {(topic, partition): offset for topic, parts in request.topics for partition, offset, *_ in parts}
        response.topics = [
            (topic, list(self._readable(topic, partitions, asked))) for topic, partitions in response.topics
        ]
        assigned = self._assignment()
        for place in self.partitions:
            if assigned is None or place not in assigned.tps:
                self._places.pop(place, None)

    def _readable(self, topic: str, partitions: Any, asked: dict[tuple[str, int], int]) -> Iterator[tuple[Any, ...]]:
        for partition, error_code, *rest, records in partitions:
            place, offset = TopicPartition(topic, partition), asked[topic, partition]
            wrong = _BROKER_ERRORS.get(error_code)
            if wrong is None:
                records, reason = readable(records or b"")
                wrong = None if records else reason
            if wrong is not None:
                self._wait(place, offset, wrong)
                continue
            if self._places.pop(place, None) is not None:
                log.info("partition %d of %s is read again", partition, topic)
            yield (partition, error_code, *rest, records)

    def _wait(self, place: TopicPartition, offset: int, reason: str) -> None:
        assigned = self._assignment()
        if assigned is None or place not in assigned.tps:
            return  # taken away in the meantime
        known = self._places.get(place)
        self._places[place] = (offset, reason)
        if known is None:
            log.error("%s", _told({place: (offset, reason)}))
        state = assigned.state_value(place)
        state.pause()
        asyncio.get_running_loop().call_later(RETRY_S, state.resume)

    def _assignment(self) -> Any:
        subscription = self._consumer._subscription.subscription
        return None if subscription is None else subscription.assignment


def _told(places: dict[TopicPartition, tuple[int, str]]) -> str:
    where = ", ".join(
        f"partition {place.partition} of {place.topic} at offset {offset} ({reason})"
        for place, (offset, reason) in sorted(places.items())
    )
    return (
        f"Kafka cannot give what it holds: {where}. Nothing is skipped, and it goes on by itself when it can be read: "
        "let another replica of the partition lead, or give the record up as docs/faults.md says"
    )


def readable(records: bytes) -> tuple[bytes, str | None]:
    """What of a partition's part of a fetch can be read, in whole batches, and why no more if it is so.

    The last batch may be cut off, as a fetch has a size; the first may not. Every record is decoded here once more than
    needed: aiokafka decodes them while it hands them over, and one that raises there takes others along. Measured: 0.3
    to 0.6 us a record of 300 bytes, 2.5 us one of 2000 that is compressed; aiokafka itself takes 3 to 5 us for either.
    """
    end, reason = _whole(records)
    batches, position = MemoryRecords(records[:end]), 0
    parts, kept = [], 0  # kept: up to where they are in parts; nothing is copied where nothing has to be changed
    while batches.has_next():
        batch = batches.next_batch()
        first, length = _HEAD.unpack_from(records, position)
        after = position + _HEAD.size + length
        if not batch.validate_crc():
            reason = f"the checksum of its batch, {first} to {batch.next_offset - 1}, is wrong"
            break
        try:
            if not _names_decode(batch):
                spelt = spelt_out(records[position:after])
                _names_decode(MemoryRecords(spelt).next_batch())
                parts += [records[kept:position], spelt]
                kept = after
        except Exception as error:  # noqa: BLE001 - a codec that is not installed, or whatever else a decoder raises
            where = f"its batch, {first} to {batch.next_offset - 1}"
            reason = f"a record of {where}, cannot be decoded: {type(error).__name__}: {error}"
            break
        position = after
    return b"".join([*parts, records[kept:position]]), reason


def _names_decode(batch: Any) -> bool:
    """Whether the names of headers are UTF-8; raises what aiokafka does where anything else does not decode."""
    try:
        deque(batch, maxlen=0)
    except UnicodeDecodeError:
        return False
    return True


def _whole(records: bytes) -> tuple[int, str | None]:
    position = 0
    while len(records) - position >= _HEAD.size:
        _, length = _HEAD.unpack_from(records, position)
        if length < _SHORTEST:
            return position, "its length is wrong"
        if position + _HEAD.size + length > len(records):
            break
        position += _HEAD.size + length
    return position, "it is cut off" if records and not position else None
