"""A TCP proxy in front of a server that answers late, or by drops."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class SlowProxy:
    """Use it as a context manager. late_s: before each answer is passed on. drop_s: before each byte of it.

    answers: how often the server answered, as far as the proxy can tell.
    """

    def __init__(self, port: int) -> None:
        self.late_s = 0.0
        self.drop_s = 0.0
        self.answers = 0
        self._to = ("127.0.0.1", port)
        self._closed = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listening]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.url = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"

    def __enter__(self) -> SlowProxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        for opened in self._open:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._to)
            self._open += [client, server]
            for run, source, sink in ((self._pass_on, client, server), (self._answer, server, client)):
                thread = threading.Thread(target=run, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self.answers += 1
                self._closed.wait(self.late_s)
                for part in _drops(data) if self.drop_s else [data]:
                    self._closed.wait(self.drop_s)
                    client.sendall(part)


def _drops(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]
