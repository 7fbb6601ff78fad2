"""The public HTTP API and the web page."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from app.gateway.answer import document_answer, search_answer, wait_answer
from app.gateway.directory import Directory
from app.gateway.fanout import Fanout, Gathered
from app.gateway.openapi import openapi
from app.gateway.queries import QueryEmbedder, unit_vector
from app.gateway.receipt import receipt
from app.gateway.remote import document_path
from app.gateway.replicas import Replicas
from app.gateway.stats import stats
from app.gateway.status import EmbedWorkers, not_ready, pauses, status_body
from app.observe.http import body_of, health_routes, json_response
from app.observe.metrics import GatewayMetrics
from app.settings import Settings
from app.shard.question import checked_id
from schemas.errors import NotFound, NotServing, RequestError, Retriable, TooLarge
from schemas.filters import parse_filter
from schemas.search import SearchRequest, parse_search_request
from schemas.waiting import parse_wait_request

log = logging.getLogger("headrace.gateway")

STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_QUICK_K = 50  # highlights take 0.1 to 0.5 ms a text, 3 texts a hit: above this, other requests should not wait for it
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Handlers; built by `headrace serve`."""

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        fanout: Fanout,
        replicas: Replicas,
        queries: QueryEmbedder,
        redis_state: Callable[[], str],
        embed_workers: EmbedWorkers,
        metrics: GatewayMetrics,
        lag: Callable[[], dict[str, Any]],
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._fanout = fanout
        self._replicas = replicas
        self._queries = queries
        self._redis_state = redis_state
        self._embed_workers = embed_workers
        self._metrics = metrics
        self._lag = lag
        self._openapi = openapi(importlib.metadata.version("headrace"))

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[self._respond], client_max_size=self._settings.max_request_bytes)
        health = health_routes(
            lambda: not_ready(self._directory) or self._queries.trouble,
            lambda: {"redis": self._redis_state()} | pauses(self._directory),
            self._metrics.registry,
        )
        application.add_routes(
            [
                *health,
                web.post("/search", self.search),
                web.post("/wait", self.wait),
                web.get("/documents/{id:(?s:.+)}/receipt", self.receipt),
                web.get("/documents/{id:(?s:.+)}", self.document),
                web.get("/status", self.status),
                web.get("/stats", self.stats),
                web.get("/openapi.json", self.describe),
                web.get("/", _file("index.html")),
                web.get("/docs", _file("docs.html")),
                web.get("/favicon.ico", _file("favicon.svg")),
                web.static("/static", STATIC),
            ]
        )
        return application

    async def search(self, request: web.Request) -> web.Response:
        """POST /search."""
        started = time.perf_counter()
        asked = parse_search_request(await body_of(request), list(request.query.items()))
        if asked.filter is not None:
            parse_filter(asked.filter)
        vector, fingerprint = await self._meaning(asked)
        gathered = await self._fanout.search(asked, vector, fingerprint)
        answer = await self._answer(gathered, asked, started)
        self._metrics.search_seconds.observe(time.perf_counter() - started)
        if answer["partial"]:
            self._metrics.partial.inc()
        if answer["freshness"]["staleness_ms"] is not None:
            self._metrics.staleness.set(answer["freshness"]["staleness_ms"] / 1000)
        return json_response(answer)

    async def document(self, request: web.Request) -> web.Response:
        """GET /documents/{id}."""
        document_id = checked_id(request.match_info["id"])
        found = await self._fanout.document(document_id)
        living = [answer for answer in found if not answer["deleted"]]
        if not living:
            proof = f": it was deleted; its receipt: GET {document_path(document_id)}/receipt"
            raise NotFound(f"no document {document_id!r}" + (proof if found else ""), document_id)
        return json_response(document_answer(max(living, key=lambda answer: answer["document"]["event_time_ms"])))

    async def wait(self, request: web.Request) -> web.Response:
        """POST /wait."""
        started = time.perf_counter()
        copies = await self._replicas.wait(parse_wait_request(await body_of(request)))
        return json_response(wait_answer(copies, started))

    async def receipt(self, request: web.Request) -> web.Response:
        """GET /documents/{id}/receipt."""
        document_id = checked_id(request.match_info["id"])
        return json_response(receipt(document_id, await self._replicas.held(document_id), self._directory).model_dump())

    async def status(self, _: web.Request) -> web.Response:
        """GET /status."""
        embed_workers = await asyncio.to_thread(self._embed_workers)
        body = status_body(
            self._settings, self._directory, self._queries.fingerprint, self._redis_state(), embed_workers
        )
        return json_response(body | {"lag": self._lag()})

    async def stats(self, _: web.Request) -> web.Response:
        """GET /stats."""
        return json_response(stats(self._settings, self._directory).model_dump())

    async def describe(self, _: web.Request) -> web.Response:
        """GET /openapi.json."""
        return json_response(self._openapi)

    async def _answer(self, gathered: Gathered, asked: SearchRequest, started: float) -> dict[str, Any]:
        stemmer = self._settings.keyword_stemmer
        if asked.k <= _QUICK_K:
            return search_answer(gathered, asked, stemmer, started)
        return await asyncio.to_thread(search_answer, gathered, asked, stemmer, started)

    async def _meaning(self, asked: SearchRequest) -> tuple[NDArray[np.float32] | None, str | None]:
        """The vector to search with, None in mode keyword, and the fingerprint of our model if that made it."""
        if asked.resolved_mode == "keyword":
            return None, None
        if asked.vector is not None:
            return unit_vector(asked.vector), None
        return await self._queries.embed(asked.query or ""), self._queries.fingerprint

    @web.middleware
    async def _respond(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Errors as JSON, headers, and the count of requests by route."""
        try:
            response = await handler(request)
        except NotFound as error:
            response = _error(error.status, str(error), document_id=error.document_id)
        except RequestError as error:
            response = _error(error.status, str(error))
        except Retriable as error:
            response = _error(NotServing.status, f"try again: {error}")
        except web.HTTPRequestEntityTooLarge:
            limit = self._settings.max_request_bytes
            response = _error(TooLarge.status, f"the body is larger than {limit} bytes (HEADRACE_MAX_REQUEST_BYTES)")
        except web.HTTPException as error:
            response = _error(error.status, f"{request.method} {request.path}: {error.reason}")
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = _error(500, "internal error; the gateway's log has the details")
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        self._metrics.requests.labels(route, str(response.status)).inc()
        response.headers.update(_HEADERS)
        return response


def _error(status: int, message: str, **facts: str | None) -> web.Response:
    body: dict[str, Any] = {"error": {"status": status, "message": message} | facts}
    return json_response(body, status)


def _file(name: str) -> _Handler:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / name, headers={"Cache-Control": "no-cache"})

    return serve
