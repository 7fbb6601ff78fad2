"""Asking a gateway over HTTP, for commands and clients: an answer, or the error of ours that it stands for."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

from schemas.errors import BadRequest, GatewayUnavailable, NotFound, NotServing, RequestError, TooLarge, WaitTimeout

TIMEOUT_S = 30.0
_ERRORS: dict[int, type[RequestError]] = {
    kind.status: kind for kind in (BadRequest, NotFound, TooLarge, NotServing, WaitTimeout)
}


async def ask(
    session: aiohttp.ClientSession, url: str, method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """The JSON object that answers.

    url: of the gateway. Raises GatewayUnavailable if none answers, the RequestError of the status if it refuses.
    """
    content = None if body is None else orjson.dumps(body)
    try:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with session.request(method, url.rstrip("/") + path, data=content, timeout=timeout) as response:
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
    try:
        message = str(answer["error"]["message"])
    except (KeyError, TypeError) as error:
        raise _away(url, f"what answers there, with status {status}, is something else") from error
    if status not in _ERRORS:
        raise GatewayUnavailable(f"the gateway at {url} answers with status {status}: {message}")
    raise _ERRORS[status](message)


async def ask_once(url: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """`ask` with a session of its own: one question of a command."""
    async with aiohttp.ClientSession() as session:
        return await ask(session, url, method, path, body)


def _away(url: str, why: str) -> GatewayUnavailable:
    return GatewayUnavailable(f"no gateway at {url}: {why}. Start one with `headrace serve`, or name another URL.")
