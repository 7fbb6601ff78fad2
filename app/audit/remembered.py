"""What Redis remembers of documents as applied, read as a whole; see app.embed.applied."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

import redis

from app.embed.applied import RedisApplied, decoded, scan
from app.redis_link import RedisLink
from app.settings import Settings

_OTHERWISE = (
    ". Start it, give it more HEADRACE_REDIS_TIMEOUT_MS, or set HEADRACE_REDIS_URL= (empty) and name the workers with "
    "--index-urls to audit without it"
)
# deletes a key unless somebody has written it since it was read
_FORGET = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Remembered:
    """Every method raises ServiceMissing where Redis fails."""

    def __init__(self, settings: Settings, link: RedisLink, epoch: str) -> None:
        self._link = link
        self._applied = RedisApplied(link, settings.collection, epoch, settings.applied_ttl_hours)

    def claims(self) -> Iterable[list[tuple[int, str, int]]]:
        """Partition, id and source offset of every state that is remembered, some at a time."""
        for keys in scan(self._link, self._applied.documents_prefix, _OTHERWISE):
            values = self._link.must(partial(_mget, keys=keys), _OTHERWISE) if keys else []
            yield [
                (*self._applied.document(key), state.order.source_offset)
                for key, value in zip(keys, values, strict=True)
                if (state := decoded(value)) is not None
            ]

    def claim(self, partition: int, document_id: str) -> int | None:
        """The source offset that is remembered of a document."""
        state = decoded(self._get(self._applied.key(partition, document_id.encode())))
        return None if state is None else state.order.source_offset

    def forget(self, partition: int, document_id: str) -> None:
        """Let the next change of a document be embedded, whatever was remembered."""
        key = self._applied.key(partition, document_id.encode())
        value = self._get(key)
        if value is not None:
            self._link.must(lambda client: [client.eval(_FORGET, 1, key, value)], _OTHERWISE)

    def _get(self, key: bytes) -> bytes | None:
        return self._link.must(lambda client: [cast("bytes | None", client.get(key))], _OTHERWISE)[0]


def _mget(client: redis.Redis, keys: list[bytes]) -> list[bytes | None]:
    return cast("list[bytes | None]", client.mget(keys))
