"""An OTLP/HTTP endpoint in a process of its own that takes spans as fast as they come.

It keeps what it gets as it came and counts the spans when it is asked: beside a measurement it costs next to nothing.
`python -m bench.collector` prints its port; `Collector` runs it.
"""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.local.probe import request
from app.local.process import stop, tied

_COUNT_WITHIN_S = 60.0


class Collector:
    """The process, for the length of a `with`."""

    def __enter__(self) -> Collector:
        command = tied([sys.executable, "-m", "bench.collector"], signal.SIGKILL)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        with self._process.stdout as told:
            self.url = f"http://127.0.0.1:{int(told.readline())}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self._process, 1)

    def taken(self) -> int:
        """The spans that came since it was last asked."""
        answer = request("GET", self.url + "/", timeout_s=_COUNT_WITHIN_S)
        if answer is None:
            raise RuntimeError("the collector does not answer")
        return int(answer[1])


class _Handler(BaseHTTPRequestHandler):
    """One server a process, so what came is kept in the class."""

    protocol_version = "HTTP/1.1"
    bodies: list[tuple[bytes, bool]] = []
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            self.bodies.append((body, self.headers.get("content-encoding") == "gzip"))
        self._answer(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        with self.lock:
            taken = self.bodies[:]
            self.bodies.clear()
        self._answer(b"%d" % sum(_spans(*item) for item in taken), "text/plain")

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _spans(body: bytes, zipped: bool) -> int:
    told = ExportTraceServiceRequest.FromString(gzip.decompress(body) if zipped else body)
    return sum(len(scope.spans) for resource in told.resource_spans for scope in resource.scope_spans)


def _serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve()
