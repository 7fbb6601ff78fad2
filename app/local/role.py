"""One role as a process to be killed, paused and started again: what tests and the soak drive.

Nothing starts it again by itself: that is what `children.py` does for `demo` and `up`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from app.local.process import free_port, headrace_command, tied
from app.local.roles import environment_of
from app.settings import PREFIX

_SUBCOMMANDS = {"embed": "embed", "index": "index", "search": "serve"}
_PORTS = {"embed": "embed_port", "index": "index_port", "search": "port"}
_LOG_LINES = 60


class Role:
    """One process of a role, which may be started again on the same port. Its output goes to a file.

    kind: embed, index or search. folder: for the log, and to run in. settings: by name; the port is added.
    Start it from a thread that lives as long as it should.
    """

    def __init__(self, name: str, kind: str, folder: Path, settings: Mapping[str, object]) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{name}.log"
        self.settings: dict[str, object] = {**settings, _PORTS[kind]: self.port}
        self._kind = kind
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its last process."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status of its last process; None while that runs, or before the first."""
        return self._process.poll() if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether its process was stopped by a signal; on Linux."""
        if self._process is None or not self.running:
            return False
        told = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        return told.rpartition(")")[2].split()[0] == "T"

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        assert not self.running
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tied(headrace_command(_SUBCOMMANDS[self._kind]), signal.SIGKILL),
                cwd=self._folder,
                env=role_environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def send(self, signal_number: int) -> None:
        """Any signal: SIGSTOP and SIGCONT make a process that is there and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal_number)

    def terminate(self) -> None:
        """SIGTERM."""
        assert self._process is not None
        self._process.terminate()

    def ended(self, within_s: float) -> int:
        """The exit status. A process that does not end in time is killed, and TimeoutError raised."""
        assert self._process is not None
        try:
            return self._process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} did not end in time after SIGTERM:\n{self.words()}") from None

    def words(self) -> str:
        """The end of what it wrote."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-_LOG_LINES:])


def role_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The variables of a role: this process's, but for settings of its own and a model hub."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return {**inherited, "HF_HUB_OFFLINE": "1", **environment_of(settings)}
