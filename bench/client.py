"""Asks the gateway over one kept connection, as an application would."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from schemas.errors import ServiceMissing

_HEADERS = {"content-type": "application/json"}
_WAIT_MS = 2000  # of one waiting search: between two of them there is time for a line of progress


class SearchClient:
    """POST /search over HTTP keep-alive. Used by one thread."""

    def __init__(self, gateway: str) -> None:
        parts = urlsplit(gateway)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=30)

    def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of one search. Raises OSError or http.client.HTTPException."""
        self._connection.request("POST", "/search", body, _HEADERS)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def search(self, body: bytes) -> dict[str, Any] | None:
        """The answer; None if it is not one (any status but 200)."""
        status, content = self.post(body)
        if status != 200:
            return None
        found: dict[str, Any] = orjson.loads(content)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def by_text(query: str, k: int = 10, mode: str = "vector") -> bytes:
    """The body of a search by text."""
    return orjson.dumps({"query": query, "k": k, "mode": mode})


def by_vector(vector: Sequence[float], k: int = 10) -> bytes:
    """The body of a search by vector."""
    return orjson.dumps({"vector": list(map(float, vector)), "k": k})


def wait_applied(
    gateway: str,
    offsets: Mapping[int, int],
    within_s: float,
    check: Callable[[], None] = lambda: None,
    say: Callable[[], None] = lambda: None,
) -> float:
    """Wait until every shard has applied these source offsets, by a search that waits for them (`min_offsets`).

    check: raises if it is hopeless. say: called every two seconds. Returns time.monotonic() of the answer.
    Raises ServiceMissing if it takes longer than within_s.
    """
    wanted = {str(partition): offset for partition, offset in offsets.items()}
    body = orjson.dumps({"query": "applied", "k": 1, "min_offsets": wanted, "timeout_ms": _WAIT_MS})
    deadline = time.monotonic() + within_s
    client = SearchClient(gateway)
    try:
        while True:
            answer = client.search(body)
            if answer is not None and not answer["partial"]:
                return time.monotonic()
            check()
            say()
            if time.monotonic() > deadline:
                raise ServiceMissing(f"the shards did not apply {wanted} within {within_s:.0f} s")
    finally:
        client.close()
