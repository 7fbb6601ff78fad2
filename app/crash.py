"""Named places at which a test kills, stops or hangs the process: what must hold then is proven at each of them.

`HEADRACE_CRASH_AT=embed.confirmed` kills it (SIGKILL to itself) the first time it comes there, `embed.confirmed:3` the
third time; `embed.confirmed:3:SIGSTOP` stops it there, to wake up as a zombie; `embed.confirmed:3:HANG` lets that
thread wait for ever. A word at the end, `embed.in_model:1:SIGKILL:poison`: only what has to do with a text that holds
it counts. No setting: it has no place on a machine that anybody relies on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Literal, get_args

Point = Literal[
    "embed.taken",
    "embed.compared",
    "embed.claimed",
    "embed.in_model",
    "embed.embedded",
    "embed.checked",
    "embed.some_confirmed",
    "embed.confirmed",
    "embed.remembered",
    "embed.acknowledged",
    "embed.committed",
    "index.taken",
    "index.in_transaction",
    "index.committed",
    "index.published",
    "index.absorbed",
    "index.rebuilt",
    "index.snapshot_written",
    "index.snapshot_renamed",
    "index.repaired",
    "index.dead_lettered",
    "index.searching",
    "kafka.reported",
]
POINTS: tuple[Point, ...] = get_args(Point)

_AT, _TIMES, _SIGNAL, _WORD, *_ = (*os.environ.get("HEADRACE_CRASH_AT", "").split(":"), "", "", "")
_left = int(_TIMES or 1)
_HANG = "HANG"


def crash_point(name: Point, first: Callable[[], object] = lambda: None, about: Iterable[str] = ()) -> None:
    """Go on; or, where a test wants it, do `first` and kill this process. about: the texts it has to do with."""
    if name == _AT and (not _WORD or any(_WORD in text for text in about)):
        _crash(first)


def _crash(first: Callable[[], object]) -> None:
    global _left
    _left -= 1
    if _left == 0:
        if _SIGNAL == _HANG:
            threading.Event().wait()
        first()
        os.kill(os.getpid(), signal.Signals[_SIGNAL or "SIGKILL"])
        time.sleep(1)  # a signal takes a moment, and this thread must not go on meanwhile
