"""What a shard owes the topics: kept with its rows, in the same transactions, until Kafka has confirmed it."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count

import orjson

from app.event import Event
from app.shard.readers import Readers
from schemas.errors import InvalidVectorRecord


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record of the vectors topic that could not be applied, as it was read."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    error: str
    message: str


class Outbox:
    """Repairs: documents whose last record in the topic is older than what is held, or cannot be applied. Compaction
    would keep that one, and a shard built from the topic would be wrong. Rejected records: not yet dead letters.

    Written by the thread that applies, inside its transaction; read by any.
    """

    def __init__(self, writer: sqlite3.Connection, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self._serials = count()
        rows = self._writer.execute("SELECT doc FROM repairs")
        # changed in place: there may be as many as documents, and a transaction changes a few
        self._repairs: dict[int, int] = {row[0]: next(self._serials) for row in rows}
        self._undo: list[tuple[int, int | None]] = []  # what the transaction has changed, and its serial before
        self._has_rejected = self._any_rejected()

    @property
    def repairs(self) -> dict[int, int]:
        """Rows of documents to be written again, each with a number that no earlier repair of it has had: a copy."""
        return self._repairs.copy()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is remembered here follows the transaction inside: with an error it is as before."""
        self._undo.clear()
        had_rejected = self._has_rejected
        try:
            yield
        except BaseException:
            for doc, serial in reversed(self._undo):
                if serial is None:
                    del self._repairs[doc]
                else:
                    self._repairs[doc] = serial
            self._has_rejected = had_rejected
            raise

    def must_repair(self, doc: int) -> None:
        """A record of the document was read that does not say what is held."""
        if doc not in self._repairs:
            self._writer.execute("INSERT INTO repairs VALUES (?)", (doc,))
            self._repairs[doc] = next(self._serials)
            self._undo.append((doc, None))

    def repaired(self, doc: int) -> None:
        """The last record in the topic says what is held."""
        if doc in self._repairs:
            self._writer.execute("DELETE FROM repairs WHERE doc = ?", (doc,))
            self._undo.append((doc, self._repairs.pop(doc)))

    def reject(self, event: Event, error: InvalidVectorRecord) -> None:
        """Keep a record that could not be applied."""
        headers = [(name, None if value is None else base64.b64encode(value).decode()) for name, value in event.headers]
        self._writer.execute(
            "INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?, ?, ?)",
            (event.offset, event.key, event.value, orjson.dumps(headers), type(error).__name__, str(error)),
        )
        self._has_rejected = True

    def rejected(self, limit: int, most_bytes: int = 2**63) -> list[RejectedRecord]:
        """Those that were read first, until their values have so many bytes."""
        if not self._has_rejected:
            return []
        found: list[RejectedRecord] = []
        sql = "SELECT * FROM rejected ORDER BY record_offset LIMIT ?"
        with self._readers.reading() as connection, closing(connection.execute(sql, (limit,))) as rows:
            for row in rows:
                found.append(RejectedRecord(row[0], row[1], row[2], _headers(row[3]), row[4], row[5]))
                most_bytes -= len(row[2] or b"")
                if most_bytes <= 0:
                    break
        return found

    def dead_lettered(self, offsets: Iterable[int]) -> None:
        """They are in the dead letter topic, and are forgotten here."""
        self._writer.executemany("DELETE FROM rejected WHERE record_offset = ?", [(offset,) for offset in offsets])
        self._has_rejected = self._any_rejected()

    def _any_rejected(self) -> bool:
        return self._writer.execute("SELECT 1 FROM rejected LIMIT 1").fetchone() is not None


def _headers(stored: bytes) -> tuple[tuple[str, bytes | None], ...]:
    pairs = orjson.loads(stored)
    return tuple((name, None if value is None else base64.b64decode(value)) for name, value in pairs)
