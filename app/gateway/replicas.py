"""Questions to every replica of a shard: whether it has applied a change, and what it holds under an id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.gateway.asking import WorkerApi
from app.gateway.directory import Directory
from app.gateway.worker import Worker
from schemas.errors import WaitTimeout
from schemas.waiting import WaitRequest

_AGAIN_S = 0.1
_MOST_TOLD = 5
_NOBODY = "no index worker has it at present"


class Copy(NamedTuple):
    """A shard of a replica at one of its workers: two of them have it while it moves. url: empty, none has it."""

    shard: int
    replica: str
    url: str


@dataclass(slots=True)
class _Waiting:
    """reached: what each copy said. lacking: of the others, why not. late: one of them had all the time there was."""

    everyone: bool
    reached: dict[Copy, dict[str, Any]] = field(default_factory=dict)
    lacking: dict[Copy, str] = field(default_factory=dict)
    late: bool = False

    def wants(self, copy: Copy) -> bool:
        if self.everyone:
            return copy not in self.reached
        return all(reached.shard != copy.shard for reached in self.reached)


@dataclass(frozen=True, slots=True)
class Held:
    """rows: what each worker of each replica of each partition holds. silent: workers that do not say, and why."""

    rows: dict[int, dict[str, list[tuple[dict[str, Any], str]]]]
    silent: dict[str, str]


class Replicas:
    """Asks the index workers of all replicas that the gateway knows."""

    def __init__(self, directory: Directory, api: WorkerApi) -> None:
        self._directory = directory
        self._api = api

    async def wait(self, request: WaitRequest) -> dict[int, dict[str, dict[str, Any]]]:
        """Partition → replica → what it said once it had applied what the request names, by meaning and by words.

        Copies that cannot be asked are asked again until the time is over: a worker may just be starting.
        Raises NotServing if no worker is known, BadRequest if there is no such partition, WaitTimeout.
        """
        await self._directory.require()
        self._directory.check_partitions(request.min_offsets)
        deadline = time.monotonic() + request.timeout_ms / 1000
        waiting = _Waiting(request.replicas == "all")
        while True:
            await self._round(request, deadline, waiting)
            if not waiting.lacking:
                break
            if waiting.late or time.monotonic() >= deadline:
                raise WaitTimeout(self._told(request, waiting))
            await asyncio.sleep(_AGAIN_S)
            await self._directory.refresh(max(0.0, deadline - time.monotonic()))
        by_shard: dict[int, dict[str, dict[str, Any]]] = {}
        for copy, said in sorted(waiting.reached.items(), key=lambda item: (item[0][:2], -applied_offset(item[1]))):
            by_shard.setdefault(copy.shard, {})[copy.replica] = said  # of its workers, the one that is least far
        return by_shard

    async def held(self, document_id: str) -> Held:
        """What every worker that answers polls holds under an id: at the URL of another may be anybody by now."""
        await self._directory.require()
        workers = list(self._directory.workers.values())
        asked = [worker for worker in workers if worker.answers]
        held = Held({}, {worker.url: "unreachable" for worker in workers if not worker.answers})
        answers = await asyncio.gather(*(self._api.rows(worker.url, document_id) for worker in asked))
        for worker, answer in zip(asked, answers, strict=True):
            if isinstance(answer, str):
                held.silent[worker.url] = answer
                continue
            for partition, said in answer.items():
                held.rows.setdefault(int(partition), {}).setdefault(worker.replica, []).append((said, worker.url))
        return held

    async def _round(self, request: WaitRequest, deadline: float, waiting: _Waiting) -> None:
        """Ask the copies that are waited for once, each until it has reached what is asked or time is over."""
        waiting.lacking.clear()
        asked: dict[str, list[Copy]] = {}
        for shard in sorted(request.offsets):
            for copy, why_not in self._copies(shard, waiting.everyone):
                if waiting.wants(copy):
                    waiting.lacking[copy] = why_not or "was not asked in time"
                    if why_not is None:
                        asked.setdefault(copy.url, []).append(copy)
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        tasks = {
            asyncio.create_task(self._ask(url, request, copies, left_ms, waiting)) for url, copies in asked.items()
        }
        try:
            while tasks and waiting.lacking:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:  # one replica is enough, and has it
                task.cancel()

    def _copies(self, shard: int, everyone: bool) -> Iterator[tuple[Copy, str | None]]:
        """The copies of a shard, and why one cannot be asked.

        A worker that is silent counts where no other one of its replica answers for the shard.
        """
        # a replica whose workers are there while none has the shard: it moves from one to the other
        moving = {worker.replica for worker in self._directory.workers.values()} & set(self._directory.copies(shard))
        owners: dict[str, list[Worker]] = {replica: [] for replica in moving}
        for worker in self._directory.owners(shard):
            owners.setdefault(worker.replica, []).append(worker)
        for replica, workers in sorted(owners.items()):
            for worker in [worker for worker in workers if worker.answers] or workers:
                why_not = None if worker.answers else self._cannot_say(worker.url, shard, "unreachable")
                yield Copy(shard, replica, worker.url), why_not
            if not workers:
                yield Copy(shard, replica, ""), _NOBODY
        if not owners:
            yield Copy(shard, "", ""), _NOBODY
        if everyone:
            for url in self._directory.strangers():
                yield Copy(shard, "", url), f"{url} has never answered"

    async def _ask(self, url: str, request: WaitRequest, copies: list[Copy], left_ms: int, waiting: _Waiting) -> None:
        body = {
            "shards": [copy.shard for copy in copies],
            "mode": "none",
            "vector": None,
            "fingerprint": None,
            "k": 0,
            "filter": None,
            "min_offsets": {str(shard): offset for shard, offset in request.offsets.items()},
            "max_staleness_ms": None,
            "timeout_ms": left_ms,
        }
        answer = await self._api.search(url, body, self._api.timeout_s(left_ms))
        for copy in [copy for copy in copies if copy in waiting.lacking]:  # else another one was enough
            said = answer if isinstance(answer, str) else answer["shards"][str(copy.shard)]
            if isinstance(said, str):
                waiting.lacking[copy] = self._cannot_say(url, copy.shard, said)
            elif "error" not in said:
                self._has_it(copy, said | {"worker": url}, waiting)
            elif said["status"] == 504:
                waiting.late = True
                waiting.lacking[copy] = f"{url} did not get there in time: it is at {_at(said.get('applied_offset'))}"
            else:
                waiting.lacking[copy] = f"{url} {said['error']}"

    @staticmethod
    def _has_it(copy: Copy, said: dict[str, Any], waiting: _Waiting) -> None:
        waiting.reached[copy] = said
        for other in list(waiting.lacking):
            if other == copy or (other.shard == copy.shard and not waiting.everyone):
                del waiting.lacking[other]

    def _cannot_say(self, url: str, shard: int, why: str) -> str:
        worker = self._directory.workers.get(url)
        told = worker.shards.get(shard, {}) if worker is not None else {}
        return f"{url} cannot say how far it is: {why}; last heard of at {_at(told.get('applied_offset'))}"

    @staticmethod
    def _told(request: WaitRequest, waiting: _Waiting) -> str:
        told = [
            f"shard {copy.shard} has not applied offset {request.offsets[copy.shard]}"
            + (f" in replica {copy.replica}" if copy.replica else "")
            + f": {why}"
            for copy, why in sorted(waiting.lacking.items())
        ]
        more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
        return "; ".join(told[:_MOST_TOLD]) + more


def applied_offset(said: dict[str, Any]) -> int:
    """How far a shard says it is; -1: it has applied nothing."""
    return -1 if said["applied_offset"] is None else int(said["applied_offset"])


def _at(offset: int | None) -> str:
    return "no offset" if offset is None else f"offset {offset}"
