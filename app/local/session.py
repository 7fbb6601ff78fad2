"""What `demo` and `up` show while they run."""

from __future__ import annotations

import time
from typing import Any

from app.local.children import Children
from app.local.console import Console
from app.local.probe import get_json, search

QUERY = "parse JSON text into Python objects"
TEND_EVERY_S = 0.25
STATUS_EVERY_S = 2.0


def first_hit(children: Children, gateway_url: str, within_s: float) -> dict[str, Any] | None:
    """Ask until there is a hit; None if there was none in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        children.tend()
        answer = search(gateway_url, QUERY)
        if answer and answer["hits"]:
            hit: dict[str, Any] = answer["hits"][0]
            return hit
        time.sleep(0.1)
    return None


def watch(children: Children, console: Console, gateway_url: str) -> None:
    """Tend the children and keep the status line up to date, until an exception (Ctrl-C) ends it."""
    ask_at = time.monotonic()
    while True:
        children.tend()
        if console.is_terminal and time.monotonic() >= ask_at:
            console.status(status_text(get_json(gateway_url + "/status")))
            ask_at = time.monotonic() + STATUS_EVERY_S
        time.sleep(TEND_EVERY_S)


def status_text(status: dict[str, Any] | None) -> str:
    """One line from the gateway's /status."""
    if status is None:
        return "the gateway does not answer"
    text = f"{status['documents']:,} documents, {status['chunks']:,} chunks"
    behind_ms = status["staleness_ms"]
    text += f" · the index is {behind_ms:,} ms behind" if behind_ms is not None else " · the index is catching up"
    bad = [f"{row['shard']} {row['state']}" for row in status["shards"] if row["state"] != "ready"]
    return f"{text} · shard {', '.join(bad)}" if bad else text
