"""What a gateway asks one index worker over HTTP, and what of an answer can be taken."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson


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
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            content = orjson.dumps(body)
            async with self._session.post(f"{url}/shards/search", data=content, timeout=timeout) as response:
                if response.status != 200:
                    return f"answered with status {response.status}"
                answer: Any = orjson.loads(await response.read())
                said = answer.get("shards") if isinstance(answer, dict) else None
                if not isinstance(said, dict) or not all(_is_said(said.get(str(shard))) for shard in body["shards"]):
                    return "answered what no index worker answers"
                return dict(answer)
        except TimeoutError:
            return f"no answer within {timeout_s * 1000:.0f} ms"
        except (aiohttp.ClientError, orjson.JSONDecodeError) as error:
            return str(error) or type(error).__name__

    async def document(self, url: str, document_id: str) -> dict[str, Any] | None:
        """What a worker holds under the id; None where it says nothing."""
        answer = await self._read(f"{url}/shards/document", document_id)
        if isinstance(answer, str) or "document" not in answer or not isinstance(answer.get("shards"), list):
            return None
        return answer

    async def rows(self, url: str, document_id: str) -> dict[str, Any] | str:
        """What each shard of a worker holds under the id, deleted or not, by shard; or why the worker says nothing."""
        answer = await self._read(f"{url}/shards/row", document_id)
        if isinstance(answer, str):
            return answer
        said = answer.get("shards")
        return dict(said) if isinstance(said, dict) else "answered what no index worker answers"

    async def _read(self, url: str, document_id: str) -> dict[str, Any] | str:
        timeout_s = self.timeout_s()
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.get(url, params={"id": document_id}, timeout=timeout) as response:
                answer: Any = orjson.loads(await response.read())
        except TimeoutError:
            return f"no answer within {timeout_s * 1000:.0f} ms"
        except (aiohttp.ClientError, orjson.JSONDecodeError) as error:
            return str(error) or type(error).__name__
        return dict(answer) if isinstance(answer, dict) else "answered what no index worker answers"


def _is_said(said: Any) -> bool:
    """Whether that is what a shard says: its hits, or why it has none."""
    return isinstance(said, dict) and (("status" in said and "error" in said) or "hits" in said)
