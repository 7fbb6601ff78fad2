"""Names of headers that are not UTF-8. Kafka takes any bytes, aiokafka raises on them: they are spelt out for it."""

from __future__ import annotations

from typing import Any

from aiokafka.record.default_records import DefaultRecordBase, _DefaultRecordBatchPy
from aiokafka.record.util import calc_crc32c, encode_varint
from aiokafka.record.util import decode_varint_py as decode_varint  # the other one reads beyond the end

_HEAD = DefaultRecordBase.HEADER_STRUCT
_MAGIC = 2  # the first format with headers
_MAGIC_AT = 16
_LENGTH, _CRC, _ATTRIBUTES = 1, 4, 5  # in the head


def spelt_out(batch: bytes) -> bytes:
    """The batch as it came, not compressed any more, with `\\xNN` for each byte of a name that is not UTF-8.

    Nothing that takes names but Kafka's protocol takes these: confluent-kafka ends the process, JSON raises.
    Raises where the batch is none.
    """
    if batch[_MAGIC_AT] < _MAGIC:
        return batch
    whole: Any = _DefaultRecordBatchPy(batch)
    whole._maybe_uncompress()
    records, at = bytearray(), whole._pos
    for _ in range(whole._num_records):
        at = _record(whole._buffer, at, records)
    head = list(_HEAD.unpack_from(batch))
    head[_LENGTH] = _HEAD.size - DefaultRecordBase.AFTER_LEN_OFFSET + len(records)
    head[_ATTRIBUTES] &= ~DefaultRecordBase.CODEC_MASK
    head[_CRC] = calc_crc32c((_HEAD.pack(*head) + records)[DefaultRecordBase.ATTRIBUTES_OFFSET :])
    return bytes(_HEAD.pack(*head) + records)


def _record(buffer: bytearray, at: int, to: bytearray) -> int:
    """Append one record; returns where the next one begins. `at` only grows: what is damaged cannot make it endless."""
    _, begin = decode_varint(buffer, at)
    at = begin + 1  # attributes
    for _ in ("time", "offset"):
        _, at = decode_varint(buffer, at)
    for _ in ("key", "value"):
        _, at = _field(buffer, at)
    count, at = decode_varint(buffer, at)
    record = buffer[begin:at]
    for _ in range(count):
        name, at = _field(buffer, at)
        spelt = name.decode(errors="backslashreplace").encode()
        encode_varint(len(spelt), record.append)
        _, end = _field(buffer, at)
        record += spelt + buffer[at:end]
        at = end
    encode_varint(len(record), to.append)
    to += record
    return at


def _field(buffer: bytearray, at: int) -> tuple[bytearray, int]:
    """Bytes with their length before them (less than 0: null), and where they end."""
    length, at = decode_varint(buffer, at)
    end = at + max(length, 0)
    return buffer[at:end], end
