"""What a gateway asks one index worker over HTTP, and what of an answer can be taken."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import aiohttp
import orjson

_NONSENSE = "answered what no index worker answers"


class TooLate(str):
    """Why a worker says nothing: it took all the time that it had."""

    __slots__ = ()


class WorkerApi:
    """The internal API of an index worker. Nothing here raises for a worker's sake.

    shard_timeout_ms: beyond what it was asked to wait, a worker has this long.
    """

    def __init__(self, session: aiohttp.ClientSession, shard_timeout_ms: int) -> None:
        self._session = session
        self._shard_timeout_ms = shard_timeout_ms

    def timeout_s(self, wait_ms: float = 0) -> float:
        """How long a worker has that is asked to wait for so long."""
        return (self._shard_timeout_ms + wait_ms) / 1000

    async def search(self, url: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any] | str:
        """What each of the shards in the body says, or why the worker says nothing."""
        answer = await self._ask("POST", f"{url}/shards/search", timeout_s, data=orjson.dumps(body))
        if isinstance(answer, str):
            return answer
        said = answer.get("shards")
        if not isinstance(said, dict) or not all(_is_said(said.get(str(shard))) for shard in body["shards"]):
            return _NONSENSE
        return answer

    async def document(self, url: str, document_id: str, timeout_s: float) -> dict[str, Any] | str:
        """What a worker holds under the id, or why it says nothing."""
        answer = await self._read(f"{url}/shards/document", document_id, timeout_s)
        if isinstance(answer, str):
            return answer
        return answer if "document" in answer and isinstance(answer.get("shards"), list) else _NONSENSE

    async def rows(self, url: str, document_id: str) -> dict[str, Any] | str:
        """What each shard of a worker holds under the id, deleted or not, by shard; or why the worker says nothing."""
        answer = await self._read(f"{url}/shards/row", document_id, self.timeout_s())
        if isinstance(answer, str):
            return answer
        said = answer.get("shards")
        return said if isinstance(said, dict) else _NONSENSE

    async def _read(self, url: str, document_id: str, timeout_s: float) -> dict[str, Any] | str:
        return await self._ask("GET", url, timeout_s, (200, 404), params={"id": document_id})

    async def _ask(
        self, method: str, url: str, timeout_s: float, expected: Collection[int] = (200,), **question: Any
    ) -> dict[str, Any] | str:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(method, url, timeout=timeout, **question) as response:
                if response.status not in expected:
                    return f"answered with status {response.status}"
                answer: Any = orjson.loads(await response.read())
        except TimeoutError:
            return TooLate(f"no answer within {timeout_s * 1000:.0f} ms")
        except (aiohttp.ClientError, orjson.JSONDecodeError) as error:
            return str(error) or type(error).__name__
        return answer if isinstance(answer, dict) else _NONSENSE


def _is_said(said: Any) -> bool:
    """Whether that is what a shard says: its hits, or why it has none."""
    return isinstance(said, dict) and (("status" in said and "error" in said) or "hits" in said)
