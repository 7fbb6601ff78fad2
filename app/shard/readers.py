"""Connections for reading a shard's file: one a thread, closed together once nobody reads."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Readers:
    """open_one: makes a connection that one thread uses and another may close."""

    def __init__(self, open_one: Callable[[], sqlite3.Connection]) -> None:
        self._open_one = open_one
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._changed = threading.Condition()
        self._reading = 0
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection; it sees what is committed. What it reads is to be taken before the block ends.

        Raises ProgrammingError once closed, also where a read was cut short by that.
        """
        with self._changed:
            if self._closed:  # the file may be another's by now
                raise sqlite3.ProgrammingError("the shard is closed")
            self._reading += 1
        try:
            yield self._own()
        except sqlite3.OperationalError as error:
            if self._closed:
                raise sqlite3.ProgrammingError("the shard is closed") from error
            raise
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Let no more reads begin, and cut short those that are going on."""
        with self._changed:
            self._closed = True
            for connection in self._connections:
                connection.interrupt()

    def close(self) -> None:
        """Close all connections: SQLite crashes the process if one is closed while it reads, so wait for that."""
        self.end()
        with self._changed:
            self._changed.wait_for(lambda: self._reading == 0)
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _own(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open_one()
            with self._changed:
                self._connections.append(connection)
        return connection
