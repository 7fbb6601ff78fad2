"""What the person at the terminal sees: progress with times, the lines of the children, one status line."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

_COLOURS = (36, 35, 33, 32, 34, 31)  # ANSI; one per child in the order of appearance
_NAME_WIDTH = 7


class Console:
    """Thread-safe. Progress goes to `out`, lines of children to `errors`; both may be the same terminal.

    clock: seconds; times are counted from the moment this is built.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        errors: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out or sys.stdout
        self._errors = errors or sys.stderr
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._colours: dict[str, int] = {}
        self._status = ""
        self.is_terminal = self._out.isatty()

    def elapsed_s(self) -> float:
        """Seconds since the console was built."""
        return self._clock() - self._began

    def step(self, text: str) -> None:
        """A line of progress, with the time since the start; it ends the status line."""
        self.status("")
        self.say(f"{self.elapsed_s():6.1f} s  {text}")

    def say(self, text: str = "") -> None:
        """A line as it is."""
        with self._lock:
            self._erase()
            self._out.write(text + "\n")
            self._draw()

    def status(self, text: str) -> None:
        """Replace the status line; on a terminal only."""
        if not self.is_terminal:
            return
        with self._lock:
            self._erase()
            self._status = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be erased
            self._draw()

    def relay(self, name: str, line: str) -> None:
        """A line that a child wrote."""
        label = f"{name:{_NAME_WIDTH}} | "
        with self._lock:
            if self._errors.isatty():
                colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
                label = f"\x1b[{colour}m{label}\x1b[0m"
            self._erase()
            self._errors.write(f"{label}{line}\n")
            self._errors.flush()
            self._draw()

    def _erase(self) -> None:
        if self._status:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _draw(self) -> None:
        if self._status:
            self._out.write(self._status)
        self._out.flush()
