"""What Redis remembers of documents as applied, read as a whole; see app.embed.applied."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from app.embed.applied import AppliedState, RedisApplied
from app.redis_link import RedisLink
from app.settings import Settings
from schemas.errors import ServiceMissing

_PAGE = 1000
# deletes a key unless somebody has written it since it was read
_FORGET = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Remembered:
    """Every method raises ServiceMissing where Redis fails."""

    def __init__(self, settings: Settings, link: RedisLink, epoch: str) -> None:
        self._link = link
        self._prefix = RedisApplied(link, settings.collection, epoch, settings.applied_ttl_hours).documents_prefix

    def claims(self) -> Iterable[list[tuple[int, str, int]]]:
        """Partition, id and source offset of every state that is remembered, some at a time."""
        cursor = 0
        while True:
            cursor, keys = self._scan(cursor)
            values = self._call(lambda client, page=keys: client.mget(page)) if keys else []
            yield [
                (*self._document(key), state.order.source_offset)
                for key, value in zip(keys, values, strict=True)
                if (state := _state(value)) is not None
            ]
            if cursor == 0:
                return

    def claim(self, partition: int, document_id: str) -> int | None:
        """The source offset that is remembered of a document."""
        state = _state(self._call(lambda client: [client.get(self._key(partition, document_id))])[0])
        return None if state is None else state.order.source_offset

    def forget(self, partition: int, document_id: str) -> None:
        """Let the next change of a document be embedded, whatever was remembered."""
        key = self._key(partition, document_id)
        value = self._call(lambda client: [client.get(key)])[0]
        if value is not None:
            self._call(lambda client: [client.eval(_FORGET, 1, key, value)])

    def _scan(self, cursor: int) -> tuple[int, list[bytes]]:
        found: tuple[int, list[bytes]] = self._call(
            lambda client: client.scan(cursor, match=self._prefix + b"*", count=_PAGE)
        )
        return found

    def _key(self, partition: int, document_id: str) -> bytes:
        return b"%b%d:%b" % (self._prefix, partition, document_id.encode())

    def _document(self, key: bytes) -> tuple[int, str]:
        partition, _, document_id = key[len(self._prefix) :].partition(b":")
        return int(partition), document_id.decode(errors="replace")

    def _call(self, action: Any) -> Any:
        answer = self._link.call(action)
        if answer is None:
            raise ServiceMissing(
                "Redis does not answer (HEADRACE_REDIS_URL). Start it, give it more HEADRACE_REDIS_TIMEOUT_MS, or set "
                "HEADRACE_REDIS_URL= (empty) and name the workers with --index-urls to audit without it"
            )
        return answer


def _state(value: bytes | None) -> AppliedState | None:
    try:
        return None if value is None else AppliedState.decode(value)
    except (struct.error, ValueError):
        return None  # not ours
