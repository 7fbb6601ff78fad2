"""Which index worker answers for which shard: asked of the workers every second, found in Redis or by settings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import aiohttp
import orjson

from app.gateway.deletes import DeleteWatch
from app.gateway.worker import Worker
from app.registry import Registry
from schemas.errors import BadRequest, NotServing

log = logging.getLogger("headrace.gateway")

POLL_S = 1.0
_ASK_TIMEOUT_S = 1.0
_FORGET_AFTER_POLLS = 60
COPY_MEMORY_S = 600.0  # a replica that is silent may come back with what it had: for so long it counts as a copy
_Who = Literal["everybody", "answering"]
_PREFERRED = ("ready", "catching up")  # one that is loading does not answer yet


class Directory:
    """The last known map; kept while Redis or workers are away. Lives in the gateway's event loop."""

    def __init__(
        self,
        collection: str,
        registry: Registry,
        urls: Sequence[str],
        session: aiohttp.ClientSession,
        deletes: DeleteWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._collection = collection
        self._registry = registry
        self._static = tuple(urls)
        self._session = session
        self._deletes = deletes
        self._clock = clock
        self._refreshing: dict[_Who, asyncio.Task[None]] = {}
        self._copies: dict[tuple[int, str], tuple[float, str]] = {}
        self._places: dict[tuple[int, str], tuple[float, int]] = {}  # never changed, for other threads: replaced
        self.workers: dict[str, Worker] = {}
        self.begun = 0  # rounds of asking everybody
        self.rounds = 0  # … that have ended

    @property
    def partitions(self) -> int:
        """How many shards there are, as the workers say; 0 while none is known."""
        return max((worker.partitions for worker in self.workers.values()), default=0)

    def owners(self, partition: int) -> list[Worker]:
        """The workers that have a shard, the best to ask first: answering, ready, least stale in rows and words."""
        owners = [worker for worker in self.workers.values() if partition in worker.shards]

        def preference(worker: Worker) -> tuple[bool, int, int]:
            shard = worker.shards[partition]
            state = shard["state"]
            rank = _PREFERRED.index(state) if state in _PREFERRED else len(_PREFERRED)
            as_of_ms = min(shard["as_of_ms"] or 0, shard.get("words_as_of_ms", shard["as_of_ms"]) or 0)
            return worker.missed > 0, rank, -as_of_ms

        return sorted(owners, key=preference)

    def copies(self, partition: int) -> dict[str, str]:
        """The replicas that have a shard, or had it within the last ten minutes, with the worker last heard of."""
        since = self._clock() - COPY_MEMORY_S
        return {
            replica: url
            for (shard, replica), (heard, url) in self._copies.items()
            if shard == partition and heard >= since
        }

    def strangers(self) -> list[str]:
        """Workers that were announced or configured and have never answered: nobody knows what they hold."""
        return [worker.url for worker in self.workers.values() if not worker.partitions]

    async def require(self) -> None:
        """Raises NotServing if no index worker is known, after having looked for one."""
        if not self.partitions:
            await self.refresh()
        if not self.partitions:
            raise NotServing("no index worker is known; start one with `headrace index` (see /readyz)")

    def check_partitions(self, partitions: Iterable[str]) -> None:
        """Raises BadRequest if there is no such partition."""
        unknown = sorted(set(map(int, partitions)) - set(range(self.partitions)))
        if unknown:
            raise BadRequest(f"min_offsets: there is no partition {unknown[0]}; there are {self.partitions}")

    def next_offsets(self) -> dict[str, dict[int, int]]:
        """By replica and shard, where it reads on in the vectors topic, as was told within the last minute.

        Whether its worker is still listed makes no difference. Called by any thread.
        """
        since = self._clock() - _FORGET_AFTER_POLLS * POLL_S
        found: dict[str, dict[int, int]] = {}
        for (shard, replica), (heard, place) in self._places.items():
            if heard >= since:
                found.setdefault(replica, {})[shard] = place
        return found

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            due = time.monotonic() + POLL_S
            self.begun += 1
            await self.refresh()
            self.rounds += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))  # one that hangs makes nobody's news older

    async def refresh(self, within_s: float | None = None) -> None:
        """Ask everybody now, waiting for at most so long; callers at the same time share one round."""
        await self._share("everybody", within_s)

    async def look_again(self, within_s: float) -> None:
        """The same of those that answered the last time and of who is new: a shard has moved."""
        await self._share("answering", within_s)

    async def _share(self, who: _Who, within_s: float | None) -> None:
        round_ = self._refreshing.get(who)
        if round_ is None or round_.done():
            round_ = self._refreshing[who] = asyncio.create_task(self._refresh(who))
        done, _ = await asyncio.wait({round_}, timeout=within_s)
        for ended in done:
            ended.result()

    async def _refresh(self, who: _Who) -> None:
        registered = await asyncio.to_thread(self._registry.urls)
        for url in {*self._static, *(registered or ())} - set(self.workers):
            self.workers[url] = Worker(url)
        asked = [worker for worker in self.workers.values() if who == "everybody" or not worker.missed]
        await asyncio.gather(*map(self._asked, asked))
        for worker in list(self.workers.values()):
            withdrawn = registered is not None and worker.url not in registered and worker.url not in self._static
            if worker.missed and (withdrawn or worker.missed > _FORGET_AFTER_POLLS) and worker.url not in self._static:
                del self.workers[worker.url]
        self._places = self._places | self._told_places()
        if self._deletes is not None:
            self._deletes.settle(lambda partition: set(self.copies(partition)))

    def _told_places(self) -> dict[tuple[int, str], tuple[float, int]]:
        """By shard and replica, when and where; of two workers that tell of one, the place that is least far."""
        now = self._clock()
        told: dict[tuple[int, str], tuple[float, int]] = {}
        for worker in (worker for worker in self.workers.values() if not worker.missed):
            for partition, shard in worker.shards.items():
                if "next_offset" in shard:
                    copy, place = (partition, worker.replica), (now, shard["next_offset"] or 0)
                    told[copy] = min(place, told.get(copy, place))
        return told

    def _asked(self, worker: Worker) -> asyncio.Task[None]:
        """The question to it that is under way, else a new one: what it tells is heard once, in order."""
        if worker.asked is None or worker.asked.done():
            worker.asked = asyncio.create_task(self._ask(worker))
        return worker.asked

    async def _ask(self, worker: Worker) -> None:
        try:
            timeout = aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S)
            parameters = {} if self._deletes is None else {"deletes_after": self._deletes.after(worker.url)}
            async with self._session.get(f"{worker.url}/shards", params=parameters, timeout=timeout) as response:
                answer = orjson.loads(await response.read())
                worker.take(answer, self._collection)
                if self._deletes is not None:
                    self._deletes.heard(worker.url, worker.replica, answer.get("deletes"))
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            # the last three: it answers, but is no index worker of ours
            if worker.missed == 0:
                log.warning("index worker %s does not answer: %s", worker.url, str(error) or type(error).__name__)
            worker.missed += 1
            return
        if worker.missed:
            log.info("index worker %s answers again", worker.url)
        worker.missed = 0
        self._copies |= {(shard, worker.replica): (self._clock(), worker.url) for shard in worker.shards}
