"""A real HTTP server with OpenAI's embeddings API whose vectors are hashed words, and which fails on demand."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from threading import Thread
from typing import Any

from aiohttp import web
from numpy.typing import NDArray

from app.model.hashing import HashingEmbedder


@dataclass(frozen=True)
class Asked:
    """One request. number: counted from 0. hang_up: closes the connection without an answer."""

    number: int
    texts: list[str]
    body: dict[str, Any]
    headers: dict[str, str]
    hang_up: Callable[[], None]


Rule = Callable[[Asked], Awaitable[web.Response | None]]


async def no_rule(_: Asked) -> web.Response | None:
    """Answer as it should be."""
    return None


class EmbeddingsServer:
    """Listens on a free port of loopback; started and stopped at will, always on the same port.

    rule: asked before every answer; what it returns is answered instead. asked: all requests. busiest: most requests
    that were in flight at a time. gone: set when it stops, for rules that hold an answer back for ever.
    """

    def __init__(self, dim: int = 64) -> None:
        self.rule: Rule = no_rule
        self.asked: list[Asked] = []
        self.busiest = 0
        self.floats_only = False
        self._in_flight = 0
        self._port = 0
        self._model = HashingEmbedder(dim)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="embeddings-server", daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def vectors(self, texts: list[str]) -> NDArray[Any]:
        """What it answers."""
        return self._model.embed(texts)

    def __enter__(self) -> EmbeddingsServer:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        if self._runner is not None:
            self._loop.call_soon_threadsafe(self.gone.set)
            self._run(self._runner.cleanup())
            self._runner = None

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        self.gone = asyncio.Event()
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/embeddings", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert request.transport is not None
        asked = Asked(len(self.asked), body["input"], body, dict(request.headers), request.transport.abort)
        self.asked.append(asked)
        self._in_flight += 1
        self.busiest = max(self.busiest, self._in_flight)
        try:
            return await self.rule(asked) or answer(self.vectors(asked.texts), self._as_base64(body))
        finally:
            self._in_flight -= 1

    def _as_base64(self, body: dict[str, Any]) -> bool:
        return body.get("encoding_format") == "base64" and not self.floats_only


def answer(vectors: NDArray[Any], as_base64: bool = False, **changes: Any) -> web.Response:
    """An answer as the API has it; `changes` replace its fields."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(row.tobytes()).decode() if as_base64 else row.tolist(),
        }
        for index, row in enumerate(vectors)
    ]
    return web.json_response({"object": "list", "data": data, "model": "hashed words"} | changes)


def refusal(status: int, message: str = "no", **headers: str) -> web.Response:
    """An error as the API has it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": {"message": message, "type": "error"}}, status=status, headers=named)
