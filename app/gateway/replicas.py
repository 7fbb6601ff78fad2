"""Questions to every replica of a shard: whether it has applied a change, and what it holds under an id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.gateway.asking import WorkerApi
from app.gateway.directory import Directory
from app.gateway.worker import Worker
from schemas.errors import WaitTimeout
from schemas.waiting import WaitRequest

_AGAIN_S = 0.1
_MOST_TOLD = 5

Copy = tuple[int, str]
"""A shard of a replica."""


@dataclass(slots=True)
class _Waiting:
    """reached: what each copy said. lacking: of the others, why not. late: one of them had all the time there was."""

    everyone: bool
    reached: dict[Copy, dict[str, Any]] = field(default_factory=dict)
    lacking: dict[Copy, str] = field(default_factory=dict)
    late: bool = False

    def wants(self, shard: int, replica: str) -> bool:
        if self.everyone:
            return (shard, replica) not in self.reached
        return all(reached != shard for reached, _ in self.reached)


@dataclass(frozen=True, slots=True)
class Held:
    """rows: what each replica of each partition holds, with its worker. silent: workers that do not say, and why."""

    rows: dict[int, dict[str, tuple[dict[str, Any], str]]]
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
            await self._directory.refresh()
        by_shard: dict[int, dict[str, dict[str, Any]]] = {}
        for (shard, replica), said in sorted(waiting.reached.items()):
            by_shard.setdefault(shard, {})[replica] = said
        return by_shard

    async def held(self, document_id: str) -> Held:
        """What every worker holds under an id."""
        await self._directory.require()
        workers = list(self._directory.workers.values())
        answers = await asyncio.gather(*(self._api.rows(worker.url, document_id) for worker in workers))
        held = Held({}, {})
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, str):
                held.silent[worker.url] = answer
                continue
            for partition, said in answer.items():
                replicas = held.rows.setdefault(int(partition), {})
                known = replicas.get(worker.replica)
                if known is None or _offset(known[0]) < _offset(said):  # two have it while it moves
                    replicas[worker.replica] = (said, worker.url)
        return held

    async def _round(self, request: WaitRequest, deadline: float, waiting: _Waiting) -> None:
        """Ask the copies that are waited for once, each until it has reached what is asked or time is over."""
        waiting.lacking.clear()
        asked: dict[str, list[Copy]] = {}
        for shard in sorted(request.offsets):
            for copy, worker in self._copies(shard, waiting):
                waiting.lacking[copy] = "no index worker has it at present"
                if worker is not None:
                    asked.setdefault(worker.url, []).append(copy)
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

    def _copies(self, shard: int, waiting: _Waiting) -> Iterator[tuple[Copy, Worker | None]]:
        owners = {worker.replica: worker for worker in reversed(self._directory.owners(shard))}  # the best of each
        # a replica whose workers are there while none has the shard: it moves from one to the other
        moving = {worker.replica for worker in self._directory.workers.values()} & set(self._directory.copies(shard))
        for replica in sorted(owners.keys() | moving) or [""]:
            if waiting.wants(shard, replica):
                yield (shard, replica), owners.get(replica)

    async def _ask(self, url: str, request: WaitRequest, copies: list[Copy], left_ms: int, waiting: _Waiting) -> None:
        body = {
            "shards": [shard for shard, _ in copies],
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
            said = answer if isinstance(answer, str) else answer["shards"][str(copy[0])]
            if isinstance(said, str):
                last = self._last_heard(url, copy[0])
                waiting.lacking[copy] = f"{url} cannot say how far it is: {said}; last heard of at {_at(last)}"
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
            if other == copy or (other[0] == copy[0] and not waiting.everyone):
                del waiting.lacking[other]

    def _last_heard(self, url: str, shard: int) -> int | None:
        worker = self._directory.workers.get(url)
        told = worker.shards.get(shard) if worker is not None else None
        return None if told is None else told.get("applied_offset")

    @staticmethod
    def _told(request: WaitRequest, waiting: _Waiting) -> str:
        told = [
            f"shard {shard} has not applied offset {request.offsets[shard]}"
            + (f" in replica {replica}" if replica else "")
            + f": {why}"
            for (shard, replica), why in sorted(waiting.lacking.items())
        ]
        more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
        return "; ".join(told[:_MOST_TOLD]) + more


def _offset(said: dict[str, Any]) -> int:
    return -1 if said["applied_offset"] is None else int(said["applied_offset"])


def _at(offset: int | None) -> str:
    return "no offset" if offset is None else f"offset {offset}"
