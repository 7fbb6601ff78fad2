"""Batches of records as no client of ours writes them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from aiokafka.client import AIOKafkaClient
from aiokafka.codec import gzip_encode
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBase
from aiokafka.record.util import calc_crc32c, encode_varint
from aiokafka.structs import TopicPartition

from producers import Position

NONE, GZIP = 0, 1

Header = tuple[bytes, bytes | None]
RawRecord = tuple[bytes | None, bytes | None, Sequence[Header]]
"""Key, value and headers, whose names may be any bytes."""


def batch_with(first: int, records: Sequence[RawRecord], compression: int = NONE) -> bytes:
    """One record a millisecond."""
    body = b"".join(_record(number, *record) for number, record in enumerate(records))
    if compression == GZIP:
        body = gzip_encode(body)
    last, none = len(records) - 1, -1
    length = DefaultRecordBase.HEADER_STRUCT.size - DefaultRecordBase.AFTER_LEN_OFFSET + len(body)
    times = (1000, 1000 + last)
    head = (first, length, none, 2, 0, compression, last, *times, none, none, none, len(records))
    return with_checksum(DefaultRecordBase.HEADER_STRUCT.pack(*head) + body)


def with_checksum(batch: bytes) -> bytes:
    """The batch, damaged as it may be, with the checksum that goes with it."""
    return batch[:17] + struct.pack(">I", calc_crc32c(batch[21:])) + batch[21:]


def write(brokers: str, topic: str, partition: int, batch: bytes) -> Position:
    """Have Kafka take a batch; where its first record is."""

    async def sent() -> Position:
        client = AIOKafkaClient(bootstrap_servers=brokers)
        try:
            await client.bootstrap()
            await client.set_topics([topic])
            leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, batch)])])
            response = await client.send(leader, request)
        finally:
            await client.close()
        ((_, ((_, error_code, offset, *_),)),) = response.topics
        assert error_code == 0
        return Position(topic, partition, offset)

    return asyncio.run(sent())


def _record(number: int, key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> bytes:
    rest = b"\0" + _varint(number) * 2 + _field(key) + _field(value) + _varint(len(headers))
    rest += b"".join(_field(name) + _field(header) for name, header in headers)
    return _varint(len(rest)) + rest


def _field(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(number: int) -> bytes:
    written = bytearray()
    encode_varint(number, written.append)
    return bytes(written)
