"""How much of what a fetch brought can be read: whole batches with the right checksum, from the first on."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from consumers.unreadable import readable
from tests.broken_batches import GZIP, NONE, batch_with, with_checksum


def batch(first: int, count: int) -> bytes:
    """As Kafka gives it."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    for number in range(count):
        builder.append(number, 1000, b"key", b"value" * 10, [])
    built = bytearray(builder.build())
    struct.pack_into(">q", built, 0, first)
    return bytes(built)


def decoded(records: bytes) -> list[Any]:
    """As aiokafka hands them over."""
    batches, found = MemoryRecords(records), []
    while batches.has_next():
        batch = batches.next_batch()
        assert batch.validate_crc()
        found += [(record.offset, record.timestamp, record.key, record.value, record.headers) for record in batch]
    return found


ONE, TWO, THREE = batch(0, 3), batch(3, 2), batch(5, 1)
ALL = ONE + TWO + THREE


def flipped(records: bytes, position: int) -> bytes:
    changed = bytearray(records)
    changed[position] ^= 1
    return bytes(changed)


def with_length(length: int) -> bytes:
    return ONE + TWO[:8] + struct.pack(">i", length) + TWO[12:]


@pytest.mark.parametrize("records", [b"", ONE, ALL])
def test_what_is_whole_can_be_read(records: bytes) -> None:
    assert readable(records) == (records, None)


@pytest.mark.parametrize("cut", [1, 13, len(THREE) - 1])
def test_a_last_batch_that_is_cut_off_comes_with_the_next_fetch(cut: int) -> None:
    assert readable(ONE + TWO + THREE[:cut]) == (ONE + TWO, None)


@pytest.mark.parametrize("byte", [17, 20, 40, 70, len(TWO) - 1])
def test_a_batch_with_a_wrong_checksum_ends_it_and_is_named(byte: int) -> None:
    reason = "the checksum of its batch, 3 to 4, is wrong"
    assert readable(flipped(ALL, len(ONE) + byte)) == (ONE, reason)
    assert readable(flipped(TWO, byte)) == (b"", reason)


@pytest.mark.parametrize("length", [-1, 0, 13])
def test_a_length_that_cannot_be_ends_it(length: int) -> None:
    assert readable(with_length(length)) == (ONE, "its length is wrong")


def test_a_first_batch_that_is_cut_off_is_not_taken_for_one_that_is_too_large() -> None:
    assert readable(ONE[:-1]) == (b"", "it is cut off")


ODD = [(b"\xff\xfe", b"1"), ("größe".encode(), None), (b"\xc3(\\", b""), (b"", b"4")]
SPELT_OUT = [(r"\xff\xfe", b"1"), ("größe", None), ("\\xc3(\\", b""), ("", b"4")]


@pytest.mark.parametrize("compression", [NONE, GZIP])
def test_a_name_of_a_header_that_is_not_utf_8_is_spelt_out_and_all_else_is_as_it_came(compression: int) -> None:
    records = [(b"k", b"v" * 500, ODD), (None, None, []), (b"", b"", ODD[:1] * 40)]
    given, reason = readable(ONE + batch_with(3, records, compression) + THREE)
    assert reason is None
    assert decoded(given) == [
        *decoded(ONE),
        (3, 1000, b"k", b"v" * 500, SPELT_OUT),
        (4, 1001, None, None, []),
        (5, 1002, b"", b"", SPELT_OUT[:1] * 40),
        *decoded(THREE),
    ]


@pytest.mark.parametrize("compression", [NONE, GZIP])
def test_records_that_do_not_decode_though_the_checksum_is_right_end_it_and_are_named(compression: int) -> None:
    odd = batch_with(3, [(b"k", b"v", ODD)] * 2, compression)
    for position in range(61, len(odd)):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            damaged = with_checksum(odd[:position] + bytes([value]) + odd[position + 1 :])
            given, reason = readable(ONE + damaged + THREE)
            if reason is None:
                assert len(decoded(given)) == 6
            else:
                assert given == ONE
                assert reason.startswith("a record of its batch, 3 to 4, cannot be decoded: ")
