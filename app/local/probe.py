"""Asks a process of ours how it does, over HTTP, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

_SHOWN_CHARS = 200


def request(
    method: str, url: str, body: dict[str, Any] | None = None, *, timeout_s: float = 2.0
) -> tuple[int, bytes] | None:
    """Status and body of the answer to one request; None if nothing answers in time."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s)
    headers = {"content-type": "application/json"} if body is not None else {}
    try:
        connection.request(
            method,
            parts.path or "/",
            json.dumps(body) if body is not None else None,
            {**headers, "connection": "close"},
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def missing_for(ready_url: str) -> str | None:
    """What a `/readyz` says is missing still; None when it is ready."""
    answer = request("GET", ready_url, timeout_s=1.0)
    if answer is None:
        return "starting"
    status, body = answer
    return None if status == 200 else _shown(body) or f"status {status}"


def get_json(url: str) -> dict[str, Any] | None:
    """The JSON object at a URL; None if there is none (yet)."""
    return _object(request("GET", url))


def search(gateway_url: str, query: str, k: int = 3) -> dict[str, Any] | None:
    """The gateway's answer to a query; None if there is none (yet)."""
    return _object(request("POST", gateway_url + "/search", {"query": query, "k": k}, timeout_s=5.0))


def _object(answer: tuple[int, bytes] | None) -> dict[str, Any] | None:
    if answer is None or answer[0] != 200:
        return None
    found: dict[str, Any] = json.loads(answer[1])
    return found


def _shown(body: bytes) -> str:
    """The human part of a 503's body, which may be JSON or text."""
    text = body.decode(errors="replace").strip()
    try:
        fields = json.loads(text)
    except ValueError:
        return text.splitlines()[0][:_SHOWN_CHARS] if text else ""
    if isinstance(fields, dict):
        text = str(fields.get("reason") or text)
    return text[:_SHOWN_CHARS]
