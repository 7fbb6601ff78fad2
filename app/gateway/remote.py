"""Asking a gateway over HTTP, for commands and clients: an answer, or the error of ours that it stands for."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from schemas.errors import BadRequest, GatewayUnavailable, NotFound, NotServing, RequestError, TooLarge, WaitTimeout

TIMEOUT_S = 30.0
_ERRORS: dict[int, type[RequestError]] = {kind.status: kind for kind in (BadRequest, TooLarge, NotServing, WaitTimeout)}


async def ask(
    session: aiohttp.ClientSession, url: str, method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """The JSON object that answers.

    url: of the gateway. path: percent-encoded, and sent as it is. Raises the RequestError of the status if it refuses,
    NotFound only where it names the document that there is not; GatewayUnavailable if none answers, or there is no such
    path at that URL.
    """
    content = None if body is None else orjson.dumps(body)
    try:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        target = URL(str(URL(url)).rstrip("/") + path, encoded=True)  # else %2E%2E in the path becomes the folder above
        async with session.request(method, target, data=content, timeout=timeout) as response:
            answer: Any = orjson.loads(await response.read())
            status = response.status
    except TimeoutError as error:
        raise _away(url, f"no answer within {timeout_s:g} s") from error
    except (aiohttp.ClientError, ValueError, OSError) as error:  # ValueError: no JSON, or no URL
        raise _away(url, str(error) or type(error).__name__) from error
    if not isinstance(answer, dict):
        raise _away(url, "what answers there is something else")
    if status == 200:
        return answer
    raise _refusal(url, f"{method} {path}", status, answer)


async def ask_document(session: aiohttp.ClientSession, url: str, document_id: str, what: str = "") -> dict[str, Any]:
    """What GET /documents/{id} answers. what: `/receipt` for that.

    Raises as `ask` does; NotFound only where there is no document of this very id. A proxy that rewrites paths may have
    another one asked for (`a/b` in place of `a//b`): GatewayUnavailable.
    """
    try:
        answer = await ask(session, url, "GET", document_path(document_id) + what)
        told = answer.get("id", document_id)
    except NotFound as error:
        if error.document_id == document_id:
            raise
        told = error.document_id
    if told == document_id:
        return answer
    raise GatewayUnavailable(
        f"asked for the document {document_id!r}, {url} answers for {told!r}: something in between changes paths. "
        "Name the gateway's own URL"
    )


def document_path(document_id: str) -> str:
    """The path of a document, percent-encoded: the id is one segment, whatever it holds, also `.` and `..`.

    Raises BadRequest for an empty one.
    """
    if not document_id:
        raise BadRequest("id: is empty")
    segment = quote(document_id, safe="")
    return "/documents/" + (segment.replace(".", "%2E") if segment in (".", "..") else segment)


async def ask_once(url: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """`ask` with a session of its own: one question of a command."""
    async with aiohttp.ClientSession() as session:
        return await ask(session, url, method, path, body)


def _refusal(url: str, asked: str, status: int, answer: dict[str, Any]) -> RequestError | GatewayUnavailable:
    """What a status other than 200 means."""
    error = answer.get("error")
    if not isinstance(error, dict) or "message" not in error:
        return _away(url, f"what answers there, with status {status}, is something else")
    message, document_id = str(error["message"]), error.get("document_id")
    if status in _ERRORS:
        return _ERRORS[status](message)
    if status != NotFound.status:
        return GatewayUnavailable(f"the gateway at {url} answers with status {status}: {message}")
    if isinstance(document_id, str):
        return NotFound(message, document_id)
    return GatewayUnavailable(
        f"what answers at {url} has no {asked} ({message}). Check the URL: it is the gateway's address, with the "
        "prefix that a proxy puts before its paths, and nothing else"
    )


def _away(url: str, why: str) -> GatewayUnavailable:
    return GatewayUnavailable(f"no gateway at {url}: {why}. Start one with `headrace serve`, or name another URL.")
