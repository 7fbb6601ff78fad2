"""The queries that `headrace tune` measures with: those the live worker was asked, a file's, or chunks."""

from __future__ import annotations

import asyncio
import base64
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
import orjson
from numpy.typing import NDArray

from app.local.roles import index_url
from app.model.load import load_embedder
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings
from app.shard.tune import Queries
from app.shard.tune_data import TunedShard
from schemas.errors import FingerprintMismatch

LEAST_LIVE = 20
MOST_OF_FILE = 2000
_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """An index worker that has the shard. queries: shape (n, dim)."""

    url: str
    ef_search: int | None
    queries: NDArray[np.float32]


def live_workers(settings: Settings, partition: int, fingerprint: str | None) -> tuple[list[LiveWorker], list[str]]:
    """The workers that have this shard with vectors of this model, and which URLs were asked."""
    logging.getLogger("headrace.redis").addHandler(logging.NullHandler())  # without Redis there are other ways to them
    link = RedisLink(settings)
    registered = Registry(link, settings.collection).urls() or []
    link.close()
    urls = list(dict.fromkeys((*settings.index_urls, *registered, index_url(settings))))
    return asyncio.run(_ask_all(urls, partition, fingerprint)), urls


def asked_lately(workers: list[LiveWorker], shard: TunedShard) -> Queries:
    """Distinct queries of all of them. Raises FingerprintMismatch if they do not fit the shard."""
    for worker in workers:
        if len(worker.queries) and worker.queries.shape[1] != shard.dim:
            raise FingerprintMismatch(
                f"the queries of {worker.url} have {worker.queries.shape[1]} dimensions, the shard's vectors "
                f"{shard.dim}: it is not the worker of this shard; check HEADRACE_COLLECTION and HEADRACE_INDEX_URLS"
            )
    asked = {row.tobytes() for worker in workers for row in worker.queries}
    return Queries("worker", np.frombuffer(b"".join(sorted(asked)), np.float32).reshape(len(asked), shard.dim))


def from_file(path: Path, settings: Settings, shard: TunedShard) -> tuple[Queries, int]:
    """Embed the file's lines, the first MOST_OF_FILE of them; and how many distinct ones it has.

    Raises BadParameter for a file without any, FingerprintMismatch if the shard's vectors are another model's.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"--queries: {path} is not UTF-8 ({error.reason})") from error
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not texts:
        raise click.BadParameter(f"--queries: {path} has no queries; write one on each line")
    embedder = load_embedder(settings, bulk=False)
    if embedder.fingerprint != shard.progress.fingerprint:
        raise FingerprintMismatch(
            f"the shard holds vectors of {shard.progress.fingerprint} ({shard.dim} dimensions), the queries would be "
            f"of {embedder.fingerprint} ({embedder.dim}): set HEADRACE_MODEL and HEADRACE_RUNTIME as for embedding"
        )
    return Queries("file", embedder.embed(texts[:MOST_OF_FILE])), len(texts)


async def _ask_all(urls: list[str], partition: int, fingerprint: str | None) -> list[LiveWorker]:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        answers = await asyncio.gather(*(_ask(session, url.rstrip("/"), partition, fingerprint) for url in urls))
    return [answer for answer in answers if answer is not None]


async def _ask(session: aiohttp.ClientSession, url: str, partition: int, fingerprint: str | None) -> LiveWorker | None:
    """None if nobody answers there, or not for this shard."""
    try:
        status = await _get(session, f"{url}/shards")
        own = next((item for item in status["shards"] if item["partition"] == partition), None)
        if own is None or own["fingerprint"] != fingerprint:
            return None
        answer = await _get(session, f"{url}/shards/queries?shard={partition}")
        vectors = np.frombuffer(base64.b64decode(answer["vectors"]), np.float32).reshape(answer["shape"])
        return LiveWorker(url, own["ef_search"], vectors)
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):  # what answers is no index worker
        return None


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return orjson.loads(await response.read())
