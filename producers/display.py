"""What a run shows on stderr while it goes: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn, TimeElapsedColumn
from rich.text import Text

from producers.tally import Tally

LINE_EVERY_S = 5.0
_BAR_EVERY_S = 0.1


class Display:
    """Shows a tally. total_bytes: of the input, 0 if unknown. `advance` and `tick` are called while reading."""

    def __init__(self, *, total_bytes: int, quiet: bool) -> None:
        self.tally = Tally(self._say)
        self._total_bytes = total_bytes
        self._read_bytes = 0
        self._rate = _Rate(self.tally)
        terminal = sys.stderr.isatty()
        self._lines = not quiet and not terminal
        self._every_s = LINE_EVERY_S if self._lines else _BAR_EVERY_S
        self._next = time.monotonic() + self._every_s
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if not quiet and terminal:
            self._bar = Progress(
                BarColumn(30),
                TaskProgressColumn(),
                _Counts(self.tally, self._rate),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("publish", total=total_bytes or None)

    def advance(self, count_bytes: int) -> None:
        """So many bytes were read on."""
        self._read_bytes += count_bytes

    def tick(self) -> None:
        """Called for every change: shows something only now and then."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every_s
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._read_bytes)
        elif self._lines:
            click.echo(self._line(), err=True)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._read_bytes)
            self._bar.stop()

    def _line(self) -> str:
        share = f"{min(1, self._read_bytes / self._total_bytes):.0%} read  " if self._total_bytes else ""
        return f"{share}{_counts(self.tally, self._rate)}"

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(Text(line))
        else:
            click.echo(line, err=True)


class _Rate:
    """Documents per second over about the last second, or since the last look if that is longer ago."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._since, self._count, self._value = time.monotonic(), 0, 0.0

    def per_second(self) -> float:
        now, count = time.monotonic(), self._tally.published
        if now - self._since >= 1:
            self._value = (count - self._count) / (now - self._since)
            self._since, self._count = now, count
        return self._value


def _counts(tally: Tally, rate: _Rate) -> str:
    errors = tally.failed + tally.bad_inputs
    return f"{tally.published} documents  {rate.per_second():.0f}/s  {errors} errors"


class _Counts(ProgressColumn):
    """Read at every refresh, as confirmations go on coming while the input waits."""

    max_refresh = 0.25

    def __init__(self, tally: Tally, rate: _Rate) -> None:
        super().__init__()
        self._tally, self._rate = tally, rate

    def render(self, task: Task) -> Text:  # noqa: ARG002
        errors = self._tally.failed + self._tally.bad_inputs
        return Text(_counts(self._tally, self._rate), style="red" if errors else "green")
