"""The last applied state of each document, as the embed worker remembers it: spares work, decides nothing.

Losing it costs time only: an event is embedded again, and the index worker drops it as already applied.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Protocol

import redis

from app.embed.events import Work
from app.order import DocumentOrder
from app.redis_link import RedisLink

# 16 hex digits of the source offset come first: Redis compares them as text, its numbers hold only 53 bits
_VALUE = struct.Struct(">16s q ? 16s 8s")
_NO_VERSION = -1

# KEYS: documents. ARGV[1]: ms to live; ARGV[i+1]: value. Writes what is not older than what is there.
_COMPARE_AND_SET = """
local written = 0
for i = 1, #KEYS do
  local new = ARGV[i + 1]
  local held = redis.call('GET', KEYS[i])
  if not held or string.sub(held, 1, 16) <= string.sub(new, 1, 16) then
    redis.call('SET', KEYS[i], new, 'PX', ARGV[1])
    written = written + 1
  end
end
return written
"""


class Verdict(Enum):
    """What is to be done with a change."""

    EMBED = "embed"
    REDELIVERED = "redelivered"
    STALE = "stale"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class AppliedState:
    """The last applied change of a document. fingerprint: 8 bytes that stand for the model's fingerprint."""

    order: DocumentOrder
    deleted: bool
    content_hash: bytes
    fingerprint: bytes

    def encode(self) -> bytes:
        """The value in Redis."""
        version = _NO_VERSION if self.order.version is None else self.order.version
        offset = b"%016x" % self.order.source_offset
        return _VALUE.pack(offset, version, self.deleted, self.content_hash, self.fingerprint)

    @classmethod
    def decode(cls, value: bytes) -> AppliedState:
        """Raises struct.error or ValueError on bytes that are not ours."""
        offset, version, deleted, content, fingerprint = _VALUE.unpack(value)
        order = DocumentOrder(None if version == _NO_VERSION else version, int(offset, 16))
        return cls(order, deleted, content, fingerprint)


def judge(work: Work, held: AppliedState | None, fingerprint: bytes) -> Verdict:
    """Compare a change with the last applied state of its document (not with any earlier one: A→B→A changes)."""
    if held is None:
        return Verdict.EMBED
    if work.event.offset < held.order.source_offset:
        return Verdict.REDELIVERED
    if work.event.offset == held.order.source_offset:
        return Verdict.REDELIVERED if held.fingerprint == fingerprint else Verdict.EMBED
    if not work.order.supersedes(held.order):
        return Verdict.STALE
    if work.change.op == "delete":
        return Verdict.UNCHANGED if held.deleted else Verdict.EMBED
    same = not held.deleted and held.content_hash == work.content_hash and held.fingerprint == fingerprint
    return Verdict.UNCHANGED if same else Verdict.EMBED


def state_after(work: Work, held: AppliedState | None, fingerprint: bytes) -> AppliedState:
    """What to remember once the change is applied."""
    order = work.order if held is None else work.order.after(held.order)
    return AppliedState(order, work.change.op == "delete", work.content_hash, fingerprint)


def short_fingerprint(fingerprint: str) -> bytes:
    """8 bytes that stand for a model fingerprint in an applied state."""
    return blake2b(fingerprint.encode(), digest_size=8).digest()


class AppliedStore(Protocol):
    """Where applied states are kept: Redis, or memory."""

    def get(self, works: Sequence[Work]) -> list[AppliedState | None]:
        """The state of each document, in order; None where nothing is known."""
        ...

    def put(self, works: Sequence[Work], states: Sequence[AppliedState]) -> None:
        """Remember, unless something newer is remembered already."""
        ...


class MemoryApplied:
    """For tests, and the oracle of the contract tests."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, str], AppliedState] = {}

    def get(self, works: Sequence[Work]) -> list[AppliedState | None]:
        """See AppliedStore."""
        return [self._states.get(work.document) for work in works]

    def put(self, works: Sequence[Work], states: Sequence[AppliedState]) -> None:
        """See AppliedStore."""
        for work, state in zip(works, states, strict=True):
            key = work.document
            held = self._states.get(key)
            if held is None or held.order.source_offset <= state.order.source_offset:
                self._states[key] = state


class RedisApplied:
    """One MGET and one script call a batch. Keys carry the epoch: offsets mean nothing in another life of the topic."""

    def __init__(self, link: RedisLink, collection: str, epoch: str, ttl_hours: int) -> None:
        self._link = link
        self._prefix = f"headrace:{collection}:applied:{blake2b(epoch.encode(), digest_size=8).hexdigest()}:".encode()
        self._ttl_ms = ttl_hours * 3_600_000

    def get(self, works: Sequence[Work]) -> list[AppliedState | None]:
        """See AppliedStore; without Redis nothing is known."""
        return [_decoded(value) for value in self._link.mget([self._key(work) for work in works])]

    def put(self, works: Sequence[Work], states: Sequence[AppliedState]) -> None:
        """See AppliedStore; without Redis nothing is remembered."""
        if not works:
            return
        keys = [self._key(work) for work in works]
        values = [state.encode() for state in states]

        def write(client: redis.Redis) -> object:
            return client.eval(_COMPARE_AND_SET, len(keys), *keys, self._ttl_ms, *values)

        self._link.call(write)

    def _key(self, work: Work) -> bytes:
        return b"%b%d:%b" % (self._prefix, work.event.partition, work.change.key)


def _decoded(value: bytes | None) -> AppliedState | None:
    if value is None:
        return None
    try:
        return AppliedState.decode(value)
    except (struct.error, ValueError):
        return None  # not ours: as if nothing were known
