"""Connections to Redis on which a whole call has a deadline.

redis-py bounds each receive: a server that trickles makes a call as long as it likes, and looking up the host's name
is not bounded at all.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, cast

import redis
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection


class Deadline(threading.local):
    """Until when the call that a thread is making has to be over; for ever outside of `within`."""

    _at_s = math.inf

    @contextmanager
    def within(self, timeout_s: float) -> Iterator[None]:
        """What this thread sends and receives in the block takes at most so long, all together."""
        self._at_s = time.monotonic() + timeout_s
        try:
            yield
        finally:
            self._at_s = math.inf

    def left_s(self, asked_s: float | None) -> float | None:
        """What is left of it, at most `asked_s`; None: any time. Raises TimeoutError when nothing is left."""
        if self._at_s == math.inf:
            return asked_s
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("out of time")
        return left_s if asked_s is None else min(left_s, asked_s)


def connection_class(url: str) -> type[redis.Connection]:
    """The class for the scheme of the URL. It takes the argument `deadline`, a Deadline, beside redis-py's own."""
    kinds = {"unix": _UnixConnection, "rediss": _TlsConnection}
    return cast("type[redis.Connection]", kinds.get(url.partition("://")[0], _TcpConnection))


class _Socket:
    """A connected socket whose every call ends by the deadline."""

    def __init__(self, connected: Any, deadline: Deadline) -> None:
        self._socket = connected
        self._deadline = deadline
        self._timeout_s: float | None = connected.gettimeout()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def settimeout(self, timeout_s: float | None) -> None:
        """Of each call, as redis-py wants it."""
        self._timeout_s = timeout_s
        self._socket.settimeout(timeout_s)

    def recv_into(self, buffer: bytearray | memoryview, *rest: int) -> int:
        """See socket.socket."""
        self._limit()
        return int(self._socket.recv_into(buffer, *rest))

    def recv(self, *arguments: int) -> bytes:
        """See socket.socket."""
        self._limit()
        return bytes(self._socket.recv(*arguments))

    def sendall(self, data: bytes | memoryview) -> None:
        """See socket.socket: its timeout is for all of the data."""
        self._limit()
        self._socket.sendall(data)

    def _limit(self) -> None:
        self._socket.settimeout(self._deadline.left_s(self._timeout_s))


class _Bounded:
    """Beside one of redis-py's connections: connecting is bounded too, whatever it takes."""

    socket_connect_timeout: float | None

    def __init__(self, *args: Any, deadline: Deadline, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = deadline

    def _connect(self) -> _Socket:
        timeout_s = self._deadline.left_s(self.socket_connect_timeout)
        return _Socket(_in_thread(super()._connect, timeout_s), self._deadline)  # type: ignore[misc]


class _TcpConnection(_Bounded, Connection):
    pass


class _TlsConnection(_Bounded, SSLConnection):
    pass


class _UnixConnection(_Bounded, UnixDomainSocketConnection):
    pass


def _in_thread(connect: Callable[[], Any], timeout_s: float | None) -> Any:
    """What `connect` returns. Raises TimeoutError when it takes too long; what it opens later is closed."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(connect())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="redis-connect", daemon=True).start()
    try:
        return done.result(timeout_s)
    except TimeoutError:
        done.add_done_callback(_close)
        raise


def _close(late: Future[Any]) -> None:
    if late.exception() is None:
        late.result().close()
