"""Child processes that do not outlive this one, whatever ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

# Run by a bare interpreter that becomes the command (exec keeps the tie). A `preexec_fn` would do the same
# between fork and exec, but Python gives no safety for that beside threads.
_TIE = """
import ctypes, os, sys
parent, death, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(death))
if os.getppid() != int(parent):
    sys.exit(143)
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")
"""


def tied(command: Sequence[str], death: signal.Signals = signal.SIGTERM) -> list[str]:
    """The command, made to get the signal `death` from the kernel when its parent ends, even by kill -9.

    Linux only (PR_SET_PDEATHSIG); elsewhere the command as it is. The kernel's "parent" is the *thread* that
    starts the child: start it from one that lives as long as the child should.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), str(int(death)), *command]


def headrace_command(*arguments: str) -> list[str]:
    """How to run `headrace` with these arguments in the environment of this interpreter."""
    script = Path(sys.executable).with_name("headrace")
    if script.exists():
        return [str(script), *arguments]
    return [sys.executable, "-c", "from app.cli import main; main()", *arguments]


def stop(process: subprocess.Popen[Any], within_s: float) -> bool:
    """SIGTERM, and SIGKILL if that did not end it in time. Returns whether it ended by itself."""
    if process.poll() is not None:
        return True
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


class LocalProcess(ABC):
    """A service of this machine as a child process. Use it as a context manager, or `start` and `stop` it."""

    stop_s = 5.0  # what it takes to end in order
    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers. Raises ServiceMissing."""

    def stop(self, within_s: float | None = None) -> None:
        """SIGTERM, then SIGKILL; within_s: default `stop_s`."""
        if self._process is not None:
            stop(self._process, self.stop_s if within_s is None else within_s)
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a fault test wants it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


def listens(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


@contextmanager
def until_stopped() -> Iterator[None]:
    """Runs the body until Ctrl-C, SIGTERM or SIGHUP, which end it without an error.

    The first signal raises KeyboardInterrupt inside the body, whose own context managers then clean up; later ones
    are ignored meanwhile. Call it from the main thread.
    """
    assert threading.current_thread() is threading.main_thread()
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        for number in watched:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in watched}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
