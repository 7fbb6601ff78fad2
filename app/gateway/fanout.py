"""One question to all shards: grouped by worker, retried at another owner, complete or saying what is missing."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.gateway.asking import WorkerApi
from app.gateway.directory import Directory
from app.gateway.worker import Worker
from schemas.errors import BadRequest, NotServing, RequestError, WaitTimeout
from schemas.search import SearchRequest

_ATTEMPTS = 2


@dataclass(slots=True)
class Gathered:
    """shards: what each answering shard said. missing: the others, and why."""

    shards: dict[int, dict[str, Any]] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)


class Fanout:
    """Asks the best owner of each shard; `Replicas` asks all of them."""

    def __init__(self, directory: Directory, api: WorkerApi) -> None:
        self._directory = directory
        self._api = api

    async def search(
        self, request: SearchRequest, vector: NDArray[np.float32] | None, fingerprint: str | None
    ) -> Gathered:
        """Ask every shard once, and again elsewhere if it has moved.

        vector: of unit length; None in mode keyword. fingerprint: of the model that made it, None if the client did.
        Raises NotServing if no worker is known or none answers, WaitTimeout if a shard did not come as far as the
        request demands, BadRequest if the shards refuse it.
        """
        await self._directory.require()
        body = self._body(request, vector, fingerprint)
        timeout_s = self._timeout_s(request)
        gathered = Gathered()
        tried: dict[int, set[str]] = {}
        for attempt in range(_ATTEMPTS):
            open_shards = [p for p in range(self._directory.partitions) if p not in gathered.shards]
            await self._round(open_shards, body, timeout_s, tried, gathered)
            if not gathered.missing:
                break
            if attempt == 0:
                await self._directory.refresh()
        self._check(request, gathered)
        return gathered

    async def document(self, document_id: str) -> list[dict[str, Any]]:
        """What each worker holds under the id. Raises NotServing if a shard cannot be asked and none has it."""
        tried: dict[int, set[str]] = {}
        silent: dict[int, str] = {}
        for attempt in range(_ATTEMPTS):
            if attempt or not self._directory.partitions:
                await self._directory.refresh()
            found, silent = await self._document_round(document_id, tried)
            if found or (self._directory.partitions and not silent):
                return found
        reasons = ", ".join(f"shard {shard} ({why})" for shard, why in sorted(silent.items()))
        raise NotServing(f"cannot tell: no answer from {reasons or 'any index worker'}")

    async def _document_round(
        self, document_id: str, tried: dict[int, set[str]]
    ) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """What was found, and the shards that nobody looked into, with the reason."""
        asked: dict[int, Worker] = {}
        silent: dict[int, str] = {}
        for shard in range(self._directory.partitions):
            owner = self._owner(shard, tried)
            if owner is None:
                silent[shard] = "no index worker has it"
            else:
                asked[shard] = owner
        workers = {worker.url: worker for worker in asked.values()}
        answers = await asyncio.gather(*(self._api.document(worker.url, document_id) for worker in workers.values()))
        by_url = dict(zip(workers, answers, strict=True))
        silent |= {
            shard: worker.url
            for shard, worker in asked.items()
            if (answer := by_url[worker.url]) is None or shard not in answer["shards"]
        }
        return [answer for answer in answers if answer and answer["document"] is not None], silent

    def _owner(self, shard: int, tried: dict[int, set[str]]) -> Worker | None:
        """Whom to ask for a shard: the best owner that was not asked yet, else the best; None if nobody has it."""
        owners = self._directory.owners(shard)
        asked = tried.setdefault(shard, set())
        owner = next((worker for worker in owners if worker.url not in asked), owners[0] if owners else None)
        if owner is not None:
            asked.add(owner.url)
        return owner

    async def _round(
        self,
        shards: Iterable[int],
        body: dict[str, Any],
        timeout_s: float,
        tried: dict[int, set[str]],
        gathered: Gathered,
    ) -> None:
        groups: dict[str, list[int]] = {}
        for shard in shards:
            owner = self._owner(shard, tried)
            if owner is None:
                gathered.missing.setdefault(shard, "no index worker has it")
            else:
                groups.setdefault(owner.url, []).append(shard)
        asked = groups.items()
        answers = await asyncio.gather(
            *(self._api.search(url, body | {"shards": own}, timeout_s) for url, own in asked)
        )
        for (url, own), answer in zip(asked, answers, strict=True):
            for shard in own:
                self._sort_in(shard, url, answer, gathered)

    @staticmethod
    def _sort_in(shard: int, url: str, answer: dict[str, Any] | str, gathered: Gathered) -> None:
        if isinstance(answer, str):
            gathered.missing[shard] = f"{url}: {answer}"
            return
        said = answer["shards"][str(shard)]
        if said.get("status") == 503:
            gathered.missing[shard] = f"{url}: {said['error']}"
        else:
            gathered.shards[shard] = said
            gathered.missing.pop(shard, None)

    @staticmethod
    def _body(request: SearchRequest, vector: NDArray[np.float32] | None, fingerprint: str | None) -> dict[str, Any]:
        return {
            "mode": request.resolved_mode,
            "query": None if request.resolved_mode == "vector" else request.query,
            "vector": None if vector is None else base64.b64encode(vector.tobytes()).decode(),
            "fingerprint": fingerprint,
            "k": request.k,
            "filter": request.filter,
            "min_offsets": request.min_offsets or {},
            "max_staleness_ms": request.max_staleness_ms,
            "timeout_ms": request.timeout_ms,
        }

    def _timeout_s(self, request: SearchRequest) -> float:
        waits = bool(request.min_offsets) or request.max_staleness_ms is not None
        return self._api.timeout_s(request.timeout_ms if waits else 0)

    def _check(self, request: SearchRequest, gathered: Gathered) -> None:
        self._directory.check_partitions(request.min_offsets or {})
        if not gathered.shards:
            reasons = "; ".join(f"shard {shard}: {why}" for shard, why in sorted(gathered.missing.items()))
            raise NotServing(f"no shard answers: {reasons}")
        for shard, said in sorted(gathered.shards.items()):
            if "error" in said:
                raise _raised(shard, said)
        if (request.min_offsets or request.max_staleness_ms is not None) and gathered.missing:
            shard, why = min(gathered.missing.items())
            raise WaitTimeout(f"shard {shard} cannot say how far it is: {why}")
        if request.filter and not gathered.missing:
            unknown = set.intersection(*(set(said.get("unknown_fields", ())) for said in gathered.shards.values()))
            if unknown:
                known = sorted(set().union(*(said["known_fields"] for said in gathered.shards.values())))
                raise BadRequest(
                    f"filter: no document has the field {min(unknown)!r}; there are: {', '.join(known[:50]) or 'none'}"
                )


def _raised(shard: int, said: dict[str, Any]) -> RequestError:
    if said["status"] == 504:
        return WaitTimeout(f"shard {shard} {said['error']} (applied offset: {said.get('applied_offset')})")
    return BadRequest(said["error"])
