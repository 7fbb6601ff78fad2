"""Verified visibility: asks a shard, the way gateways do, whether a change that was applied is what searches return."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import numpy as np
import orjson

from app.shard.apply import AppliedDocument

Outcome = Literal["seen", "superseded", "crowded", "failed", "unknown"]
OUTCOMES: dict[Outcome, str] = {
    "seen": "searches return the change; of a delete: they do not return the document",
    "superseded": "a later change of the document came first",
    "crowded": "more documents have that very vector than an answer holds",
    "failed": "searches do not return what was applied, or return what was deleted",
    "unknown": "the shard did not answer, or is no longer here",
}
_TIMEOUT_S = 5.0
_MOST_HITS = (10, 1000)
_SAME_SCORE = 0.9995  # of the vector with itself; float16 and bf16 round


@dataclass(frozen=True, slots=True)
class Probed:
    """What became of a probe. at_ns: when that was known, ns since the epoch. reason: a sentence."""

    outcome: Outcome
    at_ns: int
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether what was applied is not what searches return."""
        return self.outcome == "failed"


class Probe:
    """Asks the index worker at `url`, over HTTP, for a document by its own first vector."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def look(self, document: AppliedDocument, partition: int) -> Probed:
        """Ask until it is certain. Never raises."""
        try:
            outcome, reason = await self._look(document, partition)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            outcome, reason = "unknown", f"{type(error).__name__}: {error}"
        return Probed(outcome, time.time_ns(), reason)

    async def _look(self, document: AppliedDocument, partition: int) -> tuple[Outcome, str]:
        wanted = document.headers.source_offset
        deleted = document.headers.kind == "delete"
        if document.vector is not None:
            hits: list[dict[str, Any]] = []
            for k in _MOST_HITS:
                said = await self._search(document, partition, k)
                if "hits" not in said:
                    return "unknown", str(said.get("error"))
                hits = said["hits"]
                found = next((hit for hit in hits if hit["id"] == document.id), None)
                if found is not None and found["source_offset"] > wanted:
                    return "superseded", ""
                if found is not None and deleted:
                    return "failed", "a search returns the deleted document"
                if found is not None and found["source_offset"] == wanted:
                    return "seen", ""
                if deleted:
                    break
            full = len(hits) == _MOST_HITS[-1] and hits[-1]["score"] > _SAME_SCORE
            if not deleted and full:
                return "crowded", ""
        return await self._held(document, partition, wanted, deleted=deleted)

    async def _held(
        self, document: AppliedDocument, partition: int, wanted: int, *, deleted: bool
    ) -> tuple[Outcome, str]:
        """What the row of the shard says, where a search did not return the document."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        url = f"{self._url}/shards/row"
        async with self._session.get(url, params={"id": document.id}, timeout=timeout) as response:
            said = orjson.loads(await response.read())
        held = said["shards"].get(str(partition), {}).get("row")
        if held is None:
            return "unknown", "the shard is no longer here"
        if held["source_offset"] > wanted:
            return "superseded", ""
        if deleted:
            return ("seen", "") if held["deleted"] else ("failed", "the deleted document can still be read")
        if held["source_offset"] < wanted or held["deleted"]:
            return "failed", f"the shard holds change {held['source_offset']}, applied was {wanted}"
        if document.vector is None:
            return "seen", ""
        return "failed", "the change was applied, but no search by its own vector returns it"

    async def _search(self, document: AppliedDocument, partition: int, k: int) -> dict[str, Any]:
        vector = np.ascontiguousarray(document.vector, dtype=np.float32)
        body: dict[str, Any] = {
            "shards": [partition],
            "mode": "vector",
            "vector": base64.b64encode(vector.tobytes()).decode(),
            "fingerprint": None,
            "k": k,
            "filter": None,
            "min_offsets": {},
            "max_staleness_ms": None,
            "timeout_ms": 1000,
            "probe": True,
        }
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with self._session.post(
            f"{self._url}/shards/search", data=orjson.dumps(body), timeout=timeout
        ) as response:
            return dict(orjson.loads(await response.read())["shards"][str(partition)])
