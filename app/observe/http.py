"""The small HTTP server of a role, in a thread and event loop of its own: answers even while the role is busy."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from app.observe.metrics import exposition
from schemas.errors import BadRequest, RequestError, ServiceMissing

Check = Callable[[], "str | None"]
Services = Callable[[], "dict[str, str]"]


def listen(host: str, port: int, what: str) -> socket.socket:
    """A bound, listening socket; port 0 takes any free one. Raises ServiceMissing if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ServiceMissing(
            f"{what} cannot listen on {host}:{port}: {error.strerror}. Choose another port."
        ) from error
    bound.listen(128)
    return bound


def json_response(value: object, status: int = 200) -> web.Response:
    """orjson in a response."""
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def error_response(error: RequestError) -> web.Response:
    """The body of every answer with a status from 400 on."""
    return json_response({"error": {"status": error.status, "message": str(error)}}, error.status)


async def body_of(request: web.Request) -> bytes:
    """The body. Raises BadRequest where it is compressed: a few bytes would unpack to any number of them."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise BadRequest(f"Content-Encoding: {encoding[:20]!r} is not taken; send the body uncompressed")
    return await request.read()


def health_routes(check: Check, services: Services, registry: CollectorRegistry) -> list[web.RouteDef]:
    """/healthz (the process answers), /readyz (it does its work: 200, else 503 and the reason), /metrics.

    services: state of what the role uses; Redis may be `unavailable` while the role does its work.
    """

    async def healthz(_: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        reason = check()
        body = {"ready": reason is None, "reason": reason, "services": services()}
        return json_response(body, 200 if reason is None else 503)

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = exposition(registry, ",".join(request.headers.getall("Accept", [])))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]


class HttpThread:
    """Serves an aiohttp application on a socket until `close`."""

    def __init__(self, application: web.Application, bound: socket.socket) -> None:
        self._application = application
        self._socket = bound
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=2, auto_decompress=False
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._started = threading.Event()
        self._failure: Exception | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._socket.getsockname()[1])

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which the handlers run."""
        return self._loop

    def start(self) -> None:
        """Returns when requests are answered."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop answering; waits a few seconds for requests under way."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # noqa: BLE001 - raised in `start`, which waits
            self._failure = error
        self._started.set()
        if self._failure is None:
            self._loop.run_forever()
        self._loop.close()

    async def _serve(self) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()
