"""`headrace top`: everything about freshness on one screen that moves."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import termios
import time
import tty
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.live import Live

from app.cli.asking import ask
from app.cli.top_frame import View, frame
from app.settings import Settings, load_settings
from schemas.errors import ServiceMissing

_TIMEOUT_S = 3  # an answer later than this is as good as none
_SEARCHES = re.compile(r"^headrace_search_seconds_(count|sum)(?:\{\})? (\S+)", re.MULTILINE)


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, envvar="HEADRACE_URL", help="The gateway.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one screen, after two looks, and end.")
def top(url: str, interval_s: float, once: bool) -> int:
    """Show live how fresh the index is, where the time goes and what is in the way, until q or Ctrl-C."""
    console = Console(highlight=False)
    if not once and not console.is_terminal:
        raise click.UsageError("there is no terminal to draw on: use --once")
    look = _once if once else _live
    asyncio.run(look(console, url.rstrip("/"), interval_s))
    return 0


async def _once(console: Console, url: str, interval_s: float) -> None:
    """Raises ServiceMissing."""
    async with _session() as session:
        looks = _Looks(session, url, load_settings())
        await looks.look()
        if looks.view.gone is None:
            await asyncio.sleep(interval_s)
            await looks.look()
    if looks.view.gone is not None:
        raise ServiceMissing(looks.view.gone)
    console.print(frame(looks.view, console.width, console.height))


async def _live(console: Console, url: str, interval_s: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _session() as session:
        looks = _Looks(session, url, load_settings())
        with _keys(stop), Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                live.update(frame(looks.view, *console.size), refresh=True)
                begun = time.monotonic()
                await _unless(stop, looks.look())
                live.update(frame(looks.view, *console.size), refresh=True)
                await _unless(stop, asyncio.sleep(max(0.0, begun + interval_s - time.monotonic())))


class _Looks:
    """Asks again and again; keeps what can be told only from two answers."""

    def __init__(self, session: aiohttp.ClientSession, url: str, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._searched: tuple[float, float, float] | None = None  # when, searches, their seconds
        self._since = ""
        self.view = View(url)

    async def look(self) -> None:
        """One more answer in the view, or why there is none."""
        view = self.view
        try:
            view.told = await ask(self._session, view.url, self._settings)
        except ServiceMissing as error:
            self._since = self._since or datetime.now(UTC).strftime("%H:%M:%SZ")
            what = f"{error} " if view.told is None else f"no gateway at {view.url} since {self._since}, asking on: "
            view.gone = what + ("" if view.told is None else str(error.__cause__))
            self._searched = None
            return
        view.gone, self._since = None, ""
        await self._count_searches()
        freshness = view.told.answer["freshness"]
        view.rates.append(freshness["documents_per_s"])
        if freshness["latency_ms"]["p99"] is not None:
            view.latencies_ms.append(freshness["latency_ms"]["p99"])

    async def _count_searches(self) -> None:
        before, self._searched = self._searched, await self._searches()
        self.view.searches_per_s = self.view.search_ms = None
        if before is None or self._searched is None or self._searched[1] < before[1]:  # another process by now
            return
        passed_s, count, seconds = (now - then for now, then in zip(self._searched, before, strict=True))
        self.view.searches_per_s = count / passed_s
        self.view.search_ms = 1000 * seconds / count if count else None

    async def _searches(self) -> tuple[float, float, float] | None:
        try:
            async with self._session.get(f"{self.view.url}/metrics") as response:
                found = {name: float(value) for name, value in _SEARCHES.findall(await response.text())}
        except (aiohttp.ClientError, TimeoutError):
            return None
        return (time.monotonic(), found["count"], found["sum"]) if len(found) == 2 else None


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))


async def _unless(stop: asyncio.Event, doing: Coroutine[Any, Any, None]) -> None:
    """Do it, and give it up when `stop` is set."""
    tasks = asyncio.create_task(doing), asyncio.create_task(stop.wait())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if not tasks[0].cancelled():
        tasks[0].result()


@contextmanager
def _keys(stop: asyncio.Event) -> Iterator[None]:
    """Sets `stop` when q is pressed; the terminal is as before in the end."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)

    def pressed() -> None:
        keys = os.read(descriptor, 64)
        if not keys or b"q" in keys.lower():  # nothing: the terminal is gone
            stop.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, pressed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
