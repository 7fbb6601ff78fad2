"""A real Jaeger of our own on loopback, for users without Docker and for tests. Its traces are in memory.

`deploy/setup.sh jaeger` builds the program; `python -m app.local.jaeger` (`make jaeger`) runs it until Ctrl-C.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from app.local.process import LocalProcess, free_port, port_is_free, tied, until_stopped
from schemas.errors import HeadraceError, ServiceMissing

VERSION = "2.13.0"  # deploy/setup.sh reads it here
INSTALL = "build it (deploy/setup.sh jaeger: about 7 minutes of two cores, once)"
_CONFIG = Path(__file__).with_suffix(".yaml")
_USUAL_PORTS = (4318, 16686)  # of OTLP/HTTP and of queries


def find_jaeger() -> Path | None:
    """The program that `deploy/setup.sh jaeger` has built, else a `jaeger` on the path; None if there is none."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    built = Path(base) / "headrace" / f"jaeger-{VERSION}" / "jaeger"
    if os.access(built, os.X_OK):
        return built
    on_path = shutil.which("jaeger")
    return Path(on_path) if on_path else None


class LocalJaeger(LocalProcess):
    """One Jaeger. Use it as a context manager, or `start`, `stop` and `kill` it. Spans are gone when it ends.

    otlp_port, query_port: None for any free one, kept over restarts. Raises ServiceMissing if there is no program.
    Start it from a thread that lives as long as it should.
    """

    def __init__(
        self, otlp_port: int | None = None, query_port: int | None = None, program: Path | None = None
    ) -> None:
        found = program or find_jaeger()
        if found is None:
            raise ServiceMissing(
                f"no Jaeger on this machine: {INSTALL}, or set HEADRACE_OTLP_ENDPOINT to one that runs"
            )
        self.program = found
        self.otlp_port, self.query_port = otlp_port or free_port(), query_port or free_port()
        self._health_port = free_port()

    @property
    def otlp_url(self) -> str:
        """Where it takes spans: the setting otlp_endpoint."""
        return f"http://127.0.0.1:{self.otlp_port}"

    @property
    def url(self) -> str:
        """Where it answers queries."""
        return f"http://127.0.0.1:{self.query_port}"

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, within_s: float = 20) -> None:
        """Start and wait until it takes spans and answers; 0.1 s alone. Raises ServiceMissing if it does not."""
        ports = {
            "JAEGER_OTLP_PORT": self.otlp_port,
            "JAEGER_QUERY_PORT": self.query_port,
            "JAEGER_GRPC_PORT": free_port(),
            "JAEGER_HEALTH_PORT": self._health_port,
        }
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(
                tied([str(self.program), "--config", str(_CONFIG)]),
                env={**os.environ, **{name: str(port) for name, port in ports.items()}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
            deadline = time.monotonic() + within_s
            while not (_answers(self._health_port, "/status") and _answers(self.query_port, "/api/services")):
                status = self._process.poll()
                if status is not None or time.monotonic() > deadline:
                    self.kill()
                    log.seek(0)
                    lines = log.read().decode(errors="replace").splitlines()
                    happened = "does not answer" if status is None else f"ended with status {status}"
                    raise ServiceMissing(f"{self.program} {happened}: {' / '.join(lines[-2:]) or 'it said nothing'}")
                time.sleep(0.02)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)  # which asks no proxy
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _main() -> None:
    otlp_port, query_port = (port if port_is_free("127.0.0.1", port) else None for port in _USUAL_PORTS)
    try:
        with until_stopped(), LocalJaeger(otlp_port, query_port) as jaeger:
            click.echo(f"Jaeger {VERSION} takes spans at {jaeger.otlp_url} and answers at {jaeger.url}")
            click.echo(f"point Headrace to it:  HEADRACE_OTLP_ENDPOINT={jaeger.otlp_url} make demo")
            click.echo(f"then ask, for example: {jaeger.url}/api/traces?service=headrace-index&limit=20")
            click.echo("(built from source it has the API, not the web page: that is in docker compose)")
            while jaeger.running:
                time.sleep(0.5)
            sys.exit("headrace: Jaeger has ended by itself")
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")


if __name__ == "__main__":
    _main()
