"""What `headrace status` and `headrace top` ask, and what they conclude from the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from app.settings import Settings
from schemas.errors import ServiceMissing

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """GET /status of the gateway. workers: the embed workers; None where nobody knows them.

    local: they are not the gateway's, since it has no Redis, but the one of this machine.
    """

    answer: Answer
    workers: list[Answer] | None
    local: bool

    @property
    def obstacles(self) -> list[str]:
        """What is in the way; nothing where everything is ready."""
        return list(_obstacles(self.answer, self.workers))


async def ask(session: aiohttp.ClientSession, url: str, settings: Settings) -> Told:
    """Ask the gateway, and where it knows no embed workers, the one on this machine. Raises ServiceMissing."""
    try:
        answer = await _asked(session, url, "freshness")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ServiceMissing(
            f"no gateway at {url} (--url): {str(error) or 'no answer'}. Start one with `headrace serve`."
        ) from error
    workers = answer.setdefault("embed_workers", None)
    if workers is not None:
        return Told(answer, workers, local=False)
    try:
        return Told(answer, [await _asked(session, _local_url(settings), "runtime")], local=True)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return Told(answer, None, local=False)


def is_missed(freshness: Answer) -> bool:
    """Whether more documents miss the freshness objective than may, in every window: it is so, and has been."""
    return all(window["burn"] > 1 for window in freshness["windows"].values())


def verdict(freshness: Answer) -> tuple[str, str]:
    """What is to be said of the objective, and in which style."""
    short, long = freshness["windows"]["300"], freshness["windows"]["3600"]
    if not long["met"] + long["missed"]:
        return "no document in the last hour", "dim"
    if is_missed(freshness):
        return "MISSED", "bold red"
    if short["burn"] > 1:
        return "AT RISK", "bold yellow"
    return ("kept again", "yellow") if long["burn"] > 1 else ("kept", "green")


async def _asked(session: aiohttp.ClientSession, url: str, expected: str) -> Answer:
    """Raises ValueError where something else answers than a role of this release."""
    async with session.get(f"{url}/status") as response:
        body = await response.read()
        answer = orjson.loads(body) if response.status == 200 else None
    if not isinstance(answer, dict) or expected not in answer:
        raise ValueError(f"what answers there, with status {response.status}, is something else or of another release")
    return answer


def _local_url(settings: Settings) -> str:
    """Of an embed worker on this machine; one that listens everywhere can be reached where it listens, too."""
    host = f"[{settings.embed_host}]" if ":" in settings.embed_host else settings.embed_host
    return f"http://{host}:{settings.embed_port}"


def _obstacles(answer: Answer, workers: list[Answer] | None) -> Iterator[str]:
    if answer["reason"]:
        yield str(answer["reason"])
    for shard in answer["shards"]:
        if shard["paused"]:
            yield f"shard {shard['shard']} of replica {shard['replica']} paused: {shard['paused']}"
    if workers is not None and not workers:
        yield "no embed worker runs: changes are not embedded"
    for worker in workers or ():
        if worker["reason"]:
            yield f"embed worker {worker['worker']}: {worker['reason']}"
