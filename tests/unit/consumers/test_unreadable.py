"""How much of what a fetch brought can be read: whole batches with the right checksum, from the first on."""

from __future__ import annotations

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from consumers.unreadable import readable


def batch(first: int, count: int) -> bytes:
    """As Kafka gives it."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    for number in range(count):
        builder.append(number, 1000, b"key", b"value" * 10, [])
    built = bytearray(builder.build())
    struct.pack_into(">q", built, 0, first)
    return bytes(built)


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
    assert readable(records) == (len(records), None)


@pytest.mark.parametrize("cut", [1, 13, len(THREE) - 1])
def test_a_last_batch_that_is_cut_off_comes_with_the_next_fetch(cut: int) -> None:
    assert readable(ONE + TWO + THREE[:cut]) == (len(ONE + TWO), None)


@pytest.mark.parametrize("byte", [17, 20, 40, 70, len(TWO) - 1])
def test_a_batch_with_a_wrong_checksum_ends_it_and_is_named(byte: int) -> None:
    reason = "the checksum of its batch, 3 to 4, is wrong"
    assert readable(flipped(ALL, len(ONE) + byte)) == (len(ONE), reason)
    assert readable(flipped(TWO, byte)) == (0, reason)


@pytest.mark.parametrize("length", [-1, 0, 13])
def test_a_length_that_cannot_be_ends_it(length: int) -> None:
    assert readable(with_length(length)) == (len(ONE), "its length is wrong")


def test_a_first_batch_that_is_cut_off_is_not_taken_for_one_that_is_too_large() -> None:
    assert readable(ONE[:-1]) == (0, "it is cut off")
