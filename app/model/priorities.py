"""One number for each border of a text: what kind of a pause it is, then a hash of the text around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONTEXT_CODE_POINTS = 48  # on each side of a border; white space does not count
HASH_BITS = 60  # the rank is above them
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_WIDE_SPACES = np.array([0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000], "<u4")

Hashes = NDArray[np.uint64]


def priorities(text: str, borders: NDArray[np.int64], ranks: Sequence[int]) -> Hashes:
    """Shape (len(borders),). The same on every machine and in every process; not made to resist an attacker.

    text: valid Unicode. borders: positions in code points, ascending. ranks: 0 to 15. The hash is a polynomial modulo
    2**64 over the code points on each side, had from sums over the whole text, and mixed.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    seen = codes > 0x20
    if not text.isascii():
        seen &= ~np.isin(codes, _WIDE_SPACES)
    middle = np.concatenate(([0], np.cumsum(seen)))[borders]
    values = _mixed(codes[seen].astype(np.uint64))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _powers(_BASE, len(values)), out=sums[1:])
    inverse = _powers(pow(_BASE, -1, 1 << 64), len(values) + 1)
    before = np.maximum(middle - CONTEXT_CODE_POINTS, 0)
    after = np.minimum(middle + CONTEXT_CODE_POINTS, len(values))
    left = _mixed((sums[middle] - sums[before]) * inverse[before])
    hashes = _mixed(left + (sums[after] - sums[middle]) * inverse[middle])
    return (np.array(ranks, np.uint64) << np.uint64(HASH_BITS)) | (hashes >> np.uint64(64 - HASH_BITS))


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): each bit of a number moves half of the result's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _powers(base: int, count: int) -> Hashes:
    """base**0, base**1, ... modulo 2**64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)
