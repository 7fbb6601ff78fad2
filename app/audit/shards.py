"""Asking the index workers what their shards hold; who has which shard is asked as gateways do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp
import orjson

from app.gateway.directory import Directory
from app.gateway.worker import Worker
from app.shard.held_rows import HeldRows
from schemas.errors import NotServing, WaitTimeout

_AGAIN_S = 0.2
_ANSWER_S = 10.0
_IDS = 200  # of one question: 200 KiB at most, and a worker takes 1 MiB


class ReplicaShard:
    """One shard of one replica, wherever it is. timeout_s: how long to wait for an answer, or for records.

    Every method raises NotServing with the reason where nobody answers for it in time.
    """

    def __init__(
        self, directory: Directory, session: aiohttp.ClientSession, epoch: str, replica: str, partition: int,
        timeout_s: float,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._session = session
        self._epoch = epoch
        self.replica = replica
        self.partition = partition
        self._timeout_s = timeout_s

    def __str__(self) -> str:
        return f"shard {self.partition} of replica {self.replica}"

    async def head(self) -> HeldRows:
        """How far it is, without rows."""
        return await self._ask({"limit": "0"})

    async def reach(self, next_offset: int) -> None:
        """Wait until it has applied every record before `next_offset`. Raises WaitTimeout."""
        deadline = time.monotonic() + self._timeout_s
        while (held := await self.head()).next_offset < next_offset:
            if time.monotonic() > deadline:
                raise WaitTimeout(
                    f"{self} is behind: it has applied records up to offset {held.next_offset}, not yet up to "
                    f"{next_offset}. Wait until it has caught up (`headrace status`), or give more --timeout"
                )
            await asyncio.sleep(_AGAIN_S)

    async def pages(self, next_offset: int) -> AsyncIterator[HeldRows]:
        """All rows, by id, from states that have applied everything before `next_offset`. Raises WaitTimeout."""
        after: str | None = None
        while True:
            held = await self._ask({} if after is None else {"after": after})
            if held.next_offset < next_offset:  # it went to another worker, whose file is not as far
                await self.reach(next_offset)
                continue
            if not held.rows:
                return
            yield held
            after = held.rows[-1].id

    async def rows(self, ids: Sequence[str], next_offset: int) -> AsyncIterator[tuple[Sequence[str], HeldRows]]:
        """Which documents were asked for, some at a time, and the rows of those that the shard knows.

        From states that have applied everything before `next_offset`. Raises WaitTimeout.
        """
        for start in range(0, len(ids), _IDS):
            asked = ids[start : start + _IDS]
            while (held := await self._ask({}, asked)).next_offset < next_offset:
                await self.reach(next_offset)
            yield asked, held

    async def whole(self, document_id: str) -> HeldRows:
        """One document with its vectors."""
        return await self._ask({"id": document_id})

    async def _ask(self, query: Mapping[str, str], ids: Sequence[str] | None = None) -> HeldRows:
        deadline = time.monotonic() + self._timeout_s
        while True:
            trouble = "no index worker has it"
            for worker in self._owners():
                try:
                    return await self._ask_one(worker, query, ids)
                except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
                    trouble = f"{worker.url} does not answer: {error or type(error).__name__}"
            if time.monotonic() > deadline:
                raise NotServing(f"{self}: {trouble}. Start its index worker, or see `headrace status`")
            await asyncio.sleep(_AGAIN_S)
            await self._directory.refresh()

    def _owners(self) -> list[Worker]:
        return [worker for worker in self._directory.owners(self.partition) if worker.replica == self.replica]

    async def _ask_one(self, worker: Worker, query: Mapping[str, str], ids: Sequence[str] | None) -> HeldRows:
        url = f"{worker.url}/shards/{self.partition}/documents"
        body = None if ids is None else orjson.dumps({"ids": ids})
        timeout = aiohttp.ClientTimeout(total=min(_ANSWER_S, max(self._timeout_s, 1.0)))
        method = "GET" if ids is None else "POST"
        async with self._session.request(method, url, params=query, data=body, timeout=timeout) as response:
            if response.status == 404:
                raise NotServing(f"{self}: {worker.url} knows no audits. Update that index worker to this version")
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            held = HeldRows.decode(orjson.loads(await response.read()))
        if held.epoch != self._epoch:
            raise NotServing(
                f"{self}: {worker.url} works on another life of the topics, or another collection "
                "(HEADRACE_COLLECTION, HEADRACE_INDEX_URLS). If the topics were made again, restart its workers"
            )
        return held


async def find_replicas(directory: Directory, wanted: Sequence[str]) -> list[str]:
    """The replicas to audit: those wanted, else all there are. Raises NotServing with what cannot be audited."""
    await directory.refresh()
    silent = sorted(worker.url for worker in directory.workers.values() if worker.missed)
    if silent and not wanted:
        raise NotServing(f"index worker {', '.join(silent)} does not answer. Start it again, or name --replica")
    known = sorted({worker.replica for worker in directory.workers.values() if not worker.missed})
    if not known:
        raise NotServing("no index worker is known. Start one, or name them with --index-urls")
    if strangers := sorted(set(wanted) - set(known)):
        raise NotServing(f"no index worker of replica {', '.join(strangers)} answers, only of {', '.join(known)}")
    return list(wanted) or known


def quiet() -> None:
    """What Redis and the workers' silence mean is said by the audit itself."""
    for name in ("headrace.redis", "headrace.gateway"):
        logging.getLogger(name).addHandler(logging.NullHandler())
