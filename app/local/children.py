"""The supervisor: starts child processes, shows what they say, starts again what dies, stops all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from app.local.console import Console
from app.local.probe import missing_for
from app.local.process import tied
from schemas.errors import ServiceMissing

BACK_OFF_S = 1.0  # before the first restart; doubles
BACK_OFF_MAX_S = 30.0
STEADY_S = 60.0  # who lived this long starts again with the first back-off
SAY_WAITING_EVERY_S = 5.0
STOP_IN_TURN_S = 1.5  # how long one child has before the next is told to stop as well


@dataclass(frozen=True, slots=True)
class Child:
    """What to run. environment: beside the one of this process. ready_url: its /readyz, if it has one."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None


class Running:
    """A child with its present process. Replaced by nothing: `start` gives it a new process."""

    def __init__(self, child: Child, console: Console, log: Path) -> None:
        self.child = child
        self.deaths = 0
        self.restart_at: float | None = None
        self.started_at = 0.0
        self._console = console
        self._log = log
        self._last_lines: deque[str] = deque(maxlen=5)
        self.process, self._reader = self._start()

    def start(self) -> None:
        """A new process for the child."""
        self.close()
        self.restart_at = None
        self.process, self._reader = self._start()

    def _start(self) -> tuple[subprocess.Popen[str], threading.Thread]:
        self._last_lines.clear()
        process = subprocess.Popen(
            # the roles lose nothing by a kill; by SIGTERM they would wait for a broker that went with their parent
            tied(self.child.command, signal.SIGKILL),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.child.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,  # Ctrl-C in the terminal is for the parent, which stops the children in order
        )
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,), name=f"{self.child.name}-output")
        reader.daemon = True
        reader.start()
        return process, reader

    def _read(self, output: IO[str]) -> None:
        with output, self._log.open("a", encoding="utf-8") as log:
            for line in output:
                text = line.rstrip("\n")
                self._last_lines.append(text)
                log.write(text + "\n")
                log.flush()
                self._console.relay(self.child.name, text)

    def last_words(self) -> str:
        """What an ended process said last."""
        self.close()
        return self._last_lines[-1] if self._last_lines else "it said nothing"

    def close(self) -> None:
        """Wait for the last line of an ended process. A grandchild that holds the pipe is not waited for."""
        self._reader.join(timeout=1)


class Children:
    """Starts children in order and stops them in reverse; none outlives this process (see `process.tied`).

    log_folder: every child's output is kept there as `<name>.log`. clock: seconds, monotonic.
    Use it from one thread, the one that lives longest: call `tend` several times a second.
    """

    def __init__(self, log_folder: Path, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        self._log_folder = log_folder
        self._console = console
        self._clock = clock
        self._running: list[Running] = []

    def start(self, child: Child) -> None:
        """Start one more."""
        running = Running(child, self._console, self._log_folder / f"{child.name}.log")
        running.started_at = self._clock()
        self._running.append(running)

    def pids(self) -> dict[str, int]:
        """The processes that run, by name."""
        return {item.child.name: item.process.pid for item in self._running if item.process.poll() is None}

    def wait_ready(self, within_s: float) -> None:
        """Wait until every child with a `ready_url` says so; shows meanwhile what is missing.

        Raises ServiceMissing if a child ends before that, with its last line, or if the time is up.
        """
        began = said = self._clock()
        while missing := self._missing():
            text = "; ".join(f"{name}: {what}" for name, what in missing.items())
            now = self._clock()
            if now - began > within_s:
                raise ServiceMissing(f"not ready after {within_s:.0f} s: {text}")
            self._console.status(f"waiting for {text}")
            if now - said > SAY_WAITING_EVERY_S and not self._console.is_terminal:
                said = now
                self._console.step(f"waiting for {text}")
            time.sleep(0.1)
        self._console.status("")

    def _missing(self) -> dict[str, str]:
        missing = {}
        for item in self._running:
            status = item.process.poll()
            if status is not None:
                raise ServiceMissing(
                    f"{item.child.name} ended with status {status} before it was ready: {item.last_words()}"
                )
            if item.child.ready_url and (what := missing_for(item.child.ready_url)):
                missing[item.child.name] = what
        return missing

    def tend(self) -> None:
        """Start again who died, each after its own back-off, and say so."""
        now = self._clock()
        for item in self._running:
            status = item.process.poll()
            if status is None:
                continue
            if item.restart_at is None:
                item.deaths = 1 if now - item.started_at > STEADY_S else item.deaths + 1
                delay_s = min(BACK_OFF_MAX_S, BACK_OFF_S * 2 ** (item.deaths - 1))
                item.restart_at = now + delay_s
                self._console.step(
                    f"{item.child.name} ended with {_told(status)}; starting it again in {delay_s:.0f} s"
                )
            elif now >= item.restart_at:
                item.start()
                item.started_at = now

    def stop(self, within_s: float = 5.0) -> None:
        """SIGTERM to each in reverse order, the next when one has ended or used its turn; SIGKILL at the deadline."""
        deadline = time.monotonic() + within_s
        for item in reversed(self._running):
            if item.process.poll() is None:
                item.process.terminate()
                _wait(item.process, min(STOP_IN_TURN_S, deadline - time.monotonic()))
        for item in reversed(self._running):
            if not _wait(item.process, deadline - time.monotonic()):
                self._console.step(f"{item.child.name} did not stop within {within_s:.0f} s: killed")
                item.process.kill()
                item.process.wait()
            item.close()
        self._running.clear()

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _wait(process: subprocess.Popen[str], within_s: float) -> bool:
    try:
        process.wait(max(0.0, within_s))
    except subprocess.TimeoutExpired:
        return False
    return True


def _told(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
