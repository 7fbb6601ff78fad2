"""What `demo` and `up` show while they run."""

from __future__ import annotations

import time
from typing import Any

from app.local.children import Children
from app.local.console import Console
from app.local.probe import search

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
            console.status(status_text(search(gateway_url, QUERY, k=1)))
            ask_at = time.monotonic() + STATUS_EVERY_S
        time.sleep(TEND_EVERY_S)


def status_text(answer: dict[str, Any] | None) -> str:
    """One line from the freshness of a search answer."""
    if answer is None:
        return "search does not answer"
    freshness = answer["freshness"]
    applied = [shard["applied_offset"] for shard in freshness["shards"].values()]
    count = sum(offset + 1 for offset in applied if offset is not None)
    behind = freshness["staleness_ms"]
    text = f"{count:,} changes searchable"
    text += f" · index {behind} ms behind" if behind is not None else " · index starting"
    missing = answer.get("missing_shards")
    return f"{text} · missing shards: {', '.join(missing)}" if missing else text
