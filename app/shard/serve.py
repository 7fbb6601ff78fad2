"""The index worker's HTTP side: answers the gateway for the shards of this process (internal API, JSON)."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from app.crash import crash_point
from app.observe.http import body_of, error_response, json_response
from app.observe.metrics import IndexMetrics
from app.shard.answers import document_json, hit_json, row_json
from app.shard.delete_log import DeleteLog
from app.shard.held_rows import MOST_ROWS
from app.shard.question import ShardQuery, asked_id, asked_ids, asked_page, asked_shard
from app.shard.shard import Shard
from app.shard.shards import Shards
from app.shard.store import Progress, StoredDocument, now_ms
from app.watchdog import Watchdog
from schemas.errors import RequestError

T = TypeVar("T")

_SEARCH_THREADS = 2
_MOVED = {"error": "is not owned by this worker", "status": 503}
_POLL_S = 0.05  # staleness moves with time alone, not only with transactions


class ShardServer:
    """Handlers for the shards of one worker; they run in the HTTP thread's loop, searches in a few threads."""

    def __init__(
        self,
        shards: Shards,
        recent: deque[dict[str, Any]],
        describe: Callable[[], dict[str, Any]],
        paused: Callable[[], str | None],
        metrics: IndexMetrics,
        watchdog: Watchdog | None = None,
        deletes: DeleteLog | None = None,
    ) -> None:
        self._shards = shards
        self._deletes = deletes or DeleteLog()
        self._recent = recent
        self._describe = describe
        self._paused = paused
        self._metrics = metrics
        self._watchdog = watchdog or Watchdog(0)
        self._threads = ThreadPoolExecutor(_SEARCH_THREADS, thread_name_prefix="search")
        self._audit_thread = ThreadPoolExecutor(1, thread_name_prefix="audit")  # searches do not wait for it

    def routes(self) -> list[web.RouteDef]:
        """The internal API."""
        return [
            web.get("/shards", self.status),
            web.post("/shards/search", self.search),
            web.get("/shards/document", self.document),
            web.get("/shards/row", self.row),
            web.get("/shards/queries", self.queries),
            web.get(r"/shards/{shard:\d+}/documents", self.documents),
            web.post(r"/shards/{shard:\d+}/documents", self.documents),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """Who this is and how far each shard has come; with `deletes_after` also what was deleted since."""
        paused = self._paused()
        shards = [asdict(shard.status()) | {"paused": paused} for shard in self._shards.open.values()]
        asked = request.query.get("deletes_after")
        deletes = {} if asked is None else {"deletes": self._deletes.after(asked)}
        return json_response(self._describe() | {"shards": shards, "recent": list(self._recent)} | deletes)

    async def search(self, request: web.Request) -> web.Response:
        """Per shard its best documents and how fresh it is, or why it cannot answer."""
        started = time.perf_counter()
        try:
            query = ShardQuery.decode(await body_of(request))
        except RequestError as error:
            return error_response(error)
        answers = await asyncio.gather(*(self._search_one(query, partition) for partition in query.shards))
        if not query.probe and not query.waits_only:
            self._metrics.search_seconds.observe(time.perf_counter() - started)
        return json_response({"shards": dict(zip(map(str, query.shards), answers, strict=True))})

    async def document(self, request: web.Request) -> web.Response:
        """A stored document by id; `shards`: those of this worker that were asked.

        Where several shards have it, since its producer changed the partitioner: one that searches can return, and of
        those the one with the latest event.
        """
        try:
            document_id = asked_id(request.query)
        except RequestError as error:
            return error_response(error)
        found: list[tuple[StoredDocument, Shard]] = []
        asked = []
        for partition, shard in self._shards.open.items():
            with suppress(sqlite3.ProgrammingError):  # given away meanwhile: its next owner knows
                row = await self._in(
                    self._threads, f"reading a document of shard {partition}", partial(shard.document, document_id)
                )
                asked.append(partition)
                found += [] if row is None else [(row, shard)]
        if not found:
            return json_response({"document": None, "shards": asked}, 404)
        row, shard = max(found, key=lambda pair: (not pair[0].deleted, pair[0].event_time_ms))
        body = {"document": document_json(row, shard.partition), "deleted": row.deleted, "shards": asked}
        return json_response(body | _freshness(shard, None))

    async def row(self, request: web.Request) -> web.Response:
        """What every shard of this worker holds under an id, for receipts: see `row_json`."""
        try:
            document_id = asked_id(request.query)
        except RequestError as error:
            return error_response(error)
        found = {}
        for partition, shard in self._shards.open.items():
            with suppress(sqlite3.ProgrammingError):  # given away meanwhile: its next owner knows
                found[str(partition)] = await self._in(
                    self._threads, f"reading a row of shard {partition}", partial(row_json, shard, document_id)
                )
        return json_response({"shards": found})

    async def queries(self, request: web.Request) -> web.Response:
        """Vectors that a shard was asked for lately, base64 of float32, for `headrace tune`."""
        try:
            shard = self._shards.open.get(asked_shard(request.query))
        except RequestError as error:
            return error_response(error)
        if shard is None:
            return json_response(_MOVED, 503)
        vectors = shard.recent_queries()
        return json_response({"shape": vectors.shape, "vectors": base64.b64encode(vectors.tobytes()).decode()})

    async def documents(self, request: web.Request) -> web.Response:
        """What a shard holds, for `headrace audit`: a page by id (GET, `after`, `limit`), some ids (POST, `ids`),
        or one with its vectors (GET, `id`)."""
        try:
            shard = self._shards.open.get(asked_shard(request.match_info))
            if shard is None:
                return json_response(_MOVED, 503)
            if "id" in request.query:
                read = partial(shard.whole_row, asked_id(request.query))
            elif request.method == "POST":
                read = partial(shard.rows_of, asked_ids(await body_of(request), MOST_ROWS))
            else:
                after, limit = asked_page(request.query, MOST_ROWS)
                read = partial(shard.rows_after, after, limit)
        except RequestError as error:
            return error_response(error)
        try:
            held = await self._in(self._audit_thread, f"reading rows of shard {shard.partition}", read)
        except sqlite3.ProgrammingError:  # given away meanwhile
            return json_response(_MOVED, 503)
        return json_response(held.encode())

    def close(self) -> None:
        """No more searches."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._audit_thread.shutdown(wait=False, cancel_futures=True)

    async def _search_one(self, query: ShardQuery, partition: int) -> dict[str, Any]:
        shard = self._shards.open.get(partition)
        if shard is None:
            return _MOVED
        try:
            reached = await self._wait(query, shard)
            if not reached:
                late = {"error": "did not reach min_offsets or max_staleness_ms in time", "status": 504}
                return late | _freshness(shard, query)
            freshness = _freshness(shard, query)  # before the search: the answer is at least this fresh
            if query.waits_only:
                return {"hits": []} | freshness
            ask = partial(shard.search, query.vector, query.k, query.parsed, query.fingerprint, query.text)
            hits = await self._in(self._threads, f"a search of shard {partition}", partial(ask, probe=query.probe))
            answer = {"hits": [hit_json(hit, partition) for hit in hits]} | freshness
            if query.parsed is not None and (unknown := shard.unknown_fields(query.parsed)):
                answer |= {"unknown_fields": sorted(unknown), "known_fields": sorted(shard.field_names())}
            return answer
        except RequestError as error:
            return {"error": str(error), "status": error.status}
        except sqlite3.ProgrammingError:  # closed while it was read
            return _MOVED

    async def _in(self, threads: ThreadPoolExecutor, stage: str, read: Callable[[], T]) -> T:
        """What `read` returns, in one of the threads; its time counts from when it gets one."""

        def watched() -> T:
            with self._watchdog.watch(stage):
                crash_point("index.searching")
                return read()

        return await asyncio.get_running_loop().run_in_executor(threads, watched)

    async def _wait(self, query: ShardQuery, shard: Shard) -> bool:
        """Whether the shard has applied what the query asks for, in time."""
        if _reached(query, shard):
            return True
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        forget = shard.listen(lambda: loop.call_soon_threadsafe(changed.set))
        try:
            while not _reached(query, shard):
                left_s = query.deadline - time.monotonic()
                if left_s <= 0:
                    return False
                changed.clear()
                try:
                    await asyncio.wait_for(changed.wait(), min(left_s, _POLL_S))
                except TimeoutError:
                    continue
            return True
        finally:
            forget()


def _progress(shard: Shard, query: ShardQuery | None) -> Progress:
    return shard.progress(by_words=query is not None and query.by_words)


def _reached(query: ShardQuery, shard: Shard) -> bool:
    progress = _progress(shard, query)
    wanted = query.min_offsets.get(shard.partition)
    if wanted is not None and progress.through < wanted:
        return False
    if query.max_staleness_ms is None:
        return True
    return progress.as_of_ms is not None and now_ms() - progress.as_of_ms <= query.max_staleness_ms


def _freshness(shard: Shard, query: ShardQuery | None) -> dict[str, Any]:
    progress = _progress(shard, query)
    through = progress.through if progress.through >= 0 else None
    return {"applied_offset": through, "as_of_ms": progress.as_of_ms}
