"""The last applied state of each document, as the embed worker remembers it: spares work, decides nothing.

Losing it costs time only: an event is embedded again, and the index worker drops it as already applied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from hashlib import blake2b
from typing import Protocol, cast

import redis

from app.embed.events import Work
from app.order import DocumentOrder
from app.redis_link import RedisLink

# 16 hex digits of the source offset come first: Redis compares them as text, its numbers hold only 53 bits
_VALUE = struct.Struct(">16s q ? 16s 8s")
_NO_VERSION = -1
_DIGITS = 16
SCAN_KEYS = 1000  # in one call: a few ms of Redis, well below the default redis_timeout_ms

# KEYS: n documents, then partitions. ARGV: ms to live, n, n values, then per partition `first` and `end`.
# A document's value is written unless a newer one is there. A partition's value is `since` and `through`: if what is
# remembered reaches to `first` it is extended, else there is a gap, and what is known begins anew at `first`.
_REMEMBER = """
local n = tonumber(ARGV[2])
for i = 1, n do
  local new = ARGV[2 + i]
  local held = redis.call('GET', KEYS[i])
  if not held or string.sub(held, 1, 16) <= string.sub(new, 1, 16) then
    redis.call('SET', KEYS[i], new, 'PX', ARGV[1])
  end
end
for j = 1, #KEYS - n do
  local first, reached = ARGV[1 + n + 2 * j], ARGV[2 + n + 2 * j]
  local held = redis.call('GET', KEYS[n + j])
  local since = first
  if held and string.sub(held, 17, 32) >= first then
    since = string.sub(held, 1, 16)
    if string.sub(held, 17, 32) > reached then reached = string.sub(held, 17, 32) end
  end
  redis.call('SET', KEYS[n + j], since .. reached, 'PX', ARGV[1])
end
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
        return _VALUE.pack(
            _digits(self.order.source_offset), version, self.deleted, self.content_hash, self.fingerprint
        )

    @classmethod
    def decode(cls, value: bytes) -> AppliedState:
        """Raises struct.error or ValueError on bytes that are not ours."""
        offset, version, deleted, content, fingerprint = _VALUE.unpack(value)
        if version < _NO_VERSION:
            raise ValueError(f"version {version}")
        order = DocumentOrder(None if version == _NO_VERSION else version, _offset(offset))
        return cls(order, deleted, content, fingerprint)


def judge(work: Work, held: AppliedState | None, fingerprint: bytes, *, complete: bool) -> Verdict:
    """Compare a change with the last applied state of its document (not with any earlier one: A→B→A changes).

    complete: whether `held` is known to be the last one. A Redis that was away may have missed B: then an older
    state still says what is redelivered or stale, but not that nothing has changed.
    """
    if held is None:
        return Verdict.EMBED
    if work.place < held.order.source_offset:
        return Verdict.REDELIVERED
    if work.place == held.order.source_offset:
        return Verdict.REDELIVERED if held.fingerprint == fingerprint else Verdict.EMBED
    if not work.order.supersedes(held.order):
        return Verdict.STALE
    # what it superseded in its batch may have been produced by an attempt that was cut off before it could remember
    if not complete or work.first_offset < work.event.offset:
        return Verdict.EMBED
    # the hash holds the change's own version: where a higher one was forgotten here, the shard may have refused what
    # is remembered, and then refuses this as well, but not the same content without a version
    if work.change.op == "delete":
        return Verdict.UNCHANGED if held.deleted and held.content_hash == work.content_hash else Verdict.EMBED
    same = not held.deleted and held.content_hash == work.content_hash and held.fingerprint == fingerprint
    return Verdict.UNCHANGED if same else Verdict.EMBED


def state_after(work: Work, held: AppliedState | None, fingerprint: bytes) -> AppliedState:
    """What to remember once the change is applied."""
    order = work.order if held is None else work.order.after(held.order)
    return AppliedState(order, work.change.op == "delete", work.content_hash, fingerprint)


def short_fingerprint(fingerprint: str) -> bytes:
    """8 bytes that stand for a model fingerprint in an applied state."""
    return blake2b(fingerprint.encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Span:
    """The offsets of one batch in one partition: all before `first` has been dealt with, `end` comes after the last."""

    first: int
    end: int


class AppliedStore(Protocol):
    """Where applied states are kept: Redis, or memory."""

    def get(self, works: Sequence[Work]) -> list[AppliedState | None]:
        """The state of each document, in order; None where nothing is known."""
        ...

    def complete_since(self, spans: Mapping[int, Span]) -> dict[int, int]:
        """By partition, the offset from which on every state up to the span's first offset is remembered.

        A partition is left out where that is not known: states may be missing just before the span.
        """
        ...

    def put(self, works: Sequence[Work], states: Sequence[AppliedState], spans: Mapping[int, Span]) -> None:
        """Remember all of a batch at once, documents unless something newer is remembered already."""
        ...


class MemoryApplied:
    """For tests, and the oracle of the contract tests: forgets nothing."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, str], AppliedState] = {}

    def get(self, works: Sequence[Work]) -> list[AppliedState | None]:
        """See AppliedStore."""
        return [self._states.get(work.document) for work in works]

    def complete_since(self, spans: Mapping[int, Span]) -> dict[int, int]:
        """See AppliedStore."""
        return dict.fromkeys(spans, 0)

    def put(self, works: Sequence[Work], states: Sequence[AppliedState], spans: Mapping[int, Span]) -> None:  # noqa: ARG002
        """See AppliedStore."""
        for work, state in zip(works, states, strict=True):
            key = work.document
            held = self._states.get(key)
            if held is None or held.order.source_offset <= state.order.source_offset:
                self._states[key] = state


class RedisApplied:
    """Two MGETs and one script call a batch. Keys carry the epoch: offsets mean nothing in another one.

    documents_prefix: what the key of a document begins with; `key` and `document` know the rest.
    """

    def __init__(self, link: RedisLink, collection: str, epoch: str, ttl_hours: int) -> None:
        self._link = link
        epoch_hash = blake2b(epoch.encode(), digest_size=8).hexdigest()
        self.documents_prefix = f"headrace:{collection}:applied:{epoch_hash}:".encode()
        self._partitions = f"headrace:{collection}:remembered:{epoch_hash}:".encode()
        self._ttl_ms = ttl_hours * 3_600_000

    def get(self, works: Sequence[Work]) -> list[AppliedState | None]:
        """See AppliedStore; without Redis nothing is known."""
        return [decoded(value) for value in self._link.mget([self._key(work) for work in works])]

    def complete_since(self, spans: Mapping[int, Span]) -> dict[int, int]:
        """See AppliedStore. Redis may have been away, or be an older copy of itself: then it ends before the span."""
        values = self._link.mget([b"%b%d" % (self._partitions, partition) for partition in spans])
        found = {}
        for (partition, span), value in zip(spans.items(), values, strict=True):
            if value is None or len(value) != 2 * _DIGITS or value[_DIGITS:] < _digits(span.first):
                continue
            with suppress(ValueError):  # not ours: as if nothing were known
                found[partition] = _offset(value[:_DIGITS])
        return found

    def put(self, works: Sequence[Work], states: Sequence[AppliedState], spans: Mapping[int, Span]) -> None:
        """See AppliedStore; without Redis nothing is remembered, and the gap shows later."""
        keys = [self._key(work) for work in works] + [b"%b%d" % (self._partitions, p) for p in spans]
        values = [state.encode() for state in states]
        borders = [_digits(border) for span in spans.values() for border in (span.first, span.end)]

        def write(client: redis.Redis) -> object:
            return client.eval(_REMEMBER, len(keys), *keys, self._ttl_ms, len(values), *values, *borders)

        self._link.call(write)

    def key(self, partition: int, document_id: bytes) -> bytes:
        """What the state of a document is kept under."""
        return b"%b%d:%b" % (self.documents_prefix, partition, document_id)

    def document(self, key: bytes) -> tuple[int, str]:
        """Partition and id of what `key` gave."""
        partition, _, document_id = key[len(self.documents_prefix) :].partition(b":")
        return int(partition), document_id.decode(errors="replace")

    def _key(self, work: Work) -> bytes:
        return self.key(work.event.partition, work.change.key)


def scan(link: RedisLink, prefix: bytes, otherwise: str) -> Iterator[list[bytes]]:
    """All keys that begin so, some at a time, in calls of a few ms of Redis. Raises ServiceMissing, see RedisLink.must.

    prefix: a collection's name has none of the characters that mean something in a pattern.
    """
    cursor = 0
    while True:
        page = partial(_scan, cursor=cursor, pattern=prefix + b"*")
        cursor, keys = link.must(page, otherwise)
        yield keys
        if cursor == 0:
            return


def _scan(client: redis.Redis, cursor: int, pattern: bytes) -> tuple[int, list[bytes]]:
    return cast("tuple[int, list[bytes]]", client.scan(cursor, match=pattern, count=SCAN_KEYS))


def decoded(value: bytes | None) -> AppliedState | None:
    """A state as it was read; None for what is not ours: as if nothing were known."""
    if value is None:
        return None
    try:
        return AppliedState.decode(value)
    except (struct.error, ValueError):
        return None


def _digits(offset: int) -> bytes:
    return b"%016x" % offset


def _offset(digits: bytes) -> int:
    if len(digits) != _DIGITS or digits.strip(b"0123456789abcdef"):  # int() takes signs, spaces and underscores
        raise ValueError(f"{digits!r} is no offset")
    return int(digits, 16)
