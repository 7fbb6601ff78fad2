"""One question to all shards: grouped by worker, retried at another owner, complete or saying what is missing."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.gateway.asking import TooLate, WorkerApi
from app.gateway.directory import Directory
from app.gateway.worker import Worker
from schemas.errors import BadRequest, NotServing, RequestError, WaitTimeout
from schemas.search import SearchRequest

_ATTEMPTS = 2
_NOT_OWNED = "is not owned by this worker"

Said = dict[str, Any]
_Ask = Callable[[str, list[int]], Awaitable[Mapping[int, Said | str]]]
"""Asks the worker at a URL for its shards: what each says, or why it does not."""


@dataclass(slots=True)
class Gathered:
    """shards: what each answering shard said. missing: the others, and why."""

    shards: dict[int, Said] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Time:
    """What one question has, all attempts together. wait_ms: of that, what the shards may wait for their offsets."""

    api: WorkerApi
    wait_ms: int
    began: float = field(default_factory=time.monotonic)

    def wait_left_ms(self) -> int:
        """At least 1: who is asked late still answers with what it has."""
        return max(1, self.wait_ms - int((time.monotonic() - self.began) * 1000))

    def left_s(self) -> float:
        """Until the end of the last attempt."""
        end = self.began + self.api.timeout_s(self.wait_ms) + (_ATTEMPTS - 1) * self.api.timeout_s()
        return max(0.001, end - time.monotonic())

    def attempt_s(self) -> float:
        """How long a worker has that is asked now."""
        return min(self.api.timeout_s(self.wait_left_ms() if self.wait_ms else 0), self.left_s())


@dataclass(slots=True)
class _Question:
    """Under way to all shards. tried: who was asked for each. late: who took all the time that it had."""

    ask: _Ask
    time: _Time
    gathered: Gathered = field(default_factory=Gathered)
    tried: dict[int, set[str]] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)


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
        left = _Time(self._api, request.timeout_ms if _demands(request) else 0)

        async def ask(url: str, shards: list[int]) -> Mapping[int, Said | str]:
            own = {"shards": shards} | ({"timeout_ms": left.wait_left_ms()} if left.wait_ms else {})
            answer = await self._api.search(url, body | own, left.attempt_s())
            return dict.fromkeys(shards, answer) if isinstance(answer, str) else _said(answer["shards"], shards)

        gathered = await self._gather(_Question(ask, left))
        self._check(request, gathered)
        return gathered

    async def document(self, document_id: str) -> list[Said]:
        """What each worker holds under the id. Raises NotServing if a shard cannot be asked and none has it alive."""
        if not self._directory.partitions:
            await self._directory.refresh()
        left = _Time(self._api, 0)

        async def ask(url: str, shards: list[int]) -> Mapping[int, Said | str]:
            answer = await self._api.document(url, document_id, left.attempt_s())
            if isinstance(answer, str):
                return dict.fromkeys(shards, answer)
            return {shard: answer if shard in answer["shards"] else _NOT_OWNED for shard in shards}

        gathered = await self._gather(_Question(ask, left))
        answers = {id(answer): answer for answer in gathered.shards.values()}.values()  # one of a worker, once
        found = [answer for answer in answers if answer["document"] is not None]
        if any(not one["deleted"] for one in found) or (self._directory.partitions and not gathered.missing):
            return found
        reasons = ", ".join(f"shard {shard} ({why})" for shard, why in sorted(gathered.missing.items()))
        raise NotServing(f"cannot tell: no answer from {reasons or 'any index worker'}")

    async def _gather(self, question: _Question) -> Gathered:
        await self._round(range(self._directory.partitions), question, _ATTEMPTS)
        return question.gathered

    async def _round(self, shards: Iterable[int], question: _Question, attempts: int) -> None:
        """Ask the best owner of each shard; each worker's shards go their way, whatever the others take."""
        groups: dict[str | None, list[int]] = {}
        for shard in shards:
            owner = self._owner(shard, question)
            groups.setdefault(None if owner is None else owner.url, []).append(shard)
        await asyncio.gather(*(self._group(url, own, question, attempts) for url, own in groups.items()))

    async def _group(self, url: str | None, shards: list[int], question: _Question, attempts: int) -> None:
        """Ask a worker, None: nobody has these shards; then who else has those that say nothing, after a look.

        No look for a worker that was too slow: whoever else has its shards is asked, and it is not asked again.
        """
        missing = question.gathered.missing
        if url is None:
            for shard in shards:
                missing.setdefault(shard, self._why(shard))
        else:
            self._sort_in(url, await question.ask(url, shards), question)
        silent = [shard for shard in shards if shard in missing]
        if silent and attempts > 1:
            if url not in question.late:
                await self._directory.look_again(question.time.left_s() / 2)
            await self._round(silent, question, attempts - 1)

    def _owner(self, shard: int, question: _Question) -> Worker | None:
        """Whom to ask for a shard: the best owner that was not asked yet, else the best; None if nobody can be."""
        owners = [
            worker for worker in self._directory.owners(shard) if not worker.silent and worker.url not in question.late
        ]
        tried = question.tried.setdefault(shard, set())
        owner = next((worker for worker in owners if worker.url not in tried), owners[0] if owners else None)
        if owner is not None:
            tried.add(owner.url)
        return owner

    def _why(self, shard: int) -> str:
        """Why nobody is asked for a shard."""
        owners = self._directory.owners(shard)
        return f"{owners[0].url}: {owners[0].state(shard)}" if owners else "no index worker has it"

    @staticmethod
    def _sort_in(url: str, told: Mapping[int, Said | str], question: _Question) -> None:
        for shard, said in told.items():
            if isinstance(said, str):
                question.gathered.missing[shard] = f"{url}: {said}"
                if isinstance(said, TooLate):
                    question.late.add(url)
            else:
                question.gathered.shards[shard] = said
                question.gathered.missing.pop(shard, None)

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

    def _check(self, request: SearchRequest, gathered: Gathered) -> None:
        self._directory.check_partitions(request.min_offsets or {})
        if not gathered.shards:
            reasons = "; ".join(f"shard {shard}: {why}" for shard, why in sorted(gathered.missing.items()))
            raise NotServing(f"no shard answers: {reasons}")
        for shard, said in sorted(gathered.shards.items()):
            if "error" in said:
                raise _raised(shard, said)
        if _demands(request) and gathered.missing:
            shard, why = min(gathered.missing.items())
            raise WaitTimeout(f"shard {shard} cannot say how far it is: {why}")
        if request.filter and not gathered.missing:
            unknown = set.intersection(*(set(said.get("unknown_fields", ())) for said in gathered.shards.values()))
            if unknown:
                known = sorted(set().union(*(said["known_fields"] for said in gathered.shards.values())))
                raise BadRequest(
                    f"filter: no document has the field {min(unknown)!r}; there are: {', '.join(known[:50]) or 'none'}"
                )


def _demands(request: SearchRequest) -> bool:
    return bool(request.min_offsets) or request.max_staleness_ms is not None


def _said(told: Mapping[str, Said], shards: Iterable[int]) -> dict[int, Said | str]:
    """What the shards of one answer say; why not, of those that the worker does not have or cannot search."""
    own = {shard: told[str(shard)] for shard in shards}
    return {shard: str(said["error"]) if said.get("status") == 503 else said for shard, said in own.items()}


def _raised(shard: int, said: dict[str, Any]) -> RequestError:
    if said["status"] == 504:
        return WaitTimeout(f"shard {shard} {said['error']} (applied offset: {said.get('applied_offset')})")
    return BadRequest(said["error"])
