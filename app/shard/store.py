"""The durable state of a shard: one SQLite file in which rows and offsets change together.

Everything else (write buffer, graph) is derived from it.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from app.order import DocumentOrder
from app.shard.outbox import Outbox
from app.shard.readers import Readers
from schemas.errors import PartitionsChanged, ShardCorrupt, StorageFull

log = logging.getLogger("headrace.shard")

FORMAT = 2
_LOCK_WAIT_S = 10.0
_REFUSES = "its disk refuses it: is it read-only, at a quota or a limit of size, or failing (dmesg)?"
# what the disk does to a file that is whole → what people can do
_DISK_ERRORS = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    **dict.fromkeys((sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY), _REFUSES),
    **dict.fromkeys((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM), _REFUSES),
    sqlite3.SQLITE_BUSY: "another process holds it, as a backup may: let it end",
    sqlite3.SQLITE_NOMEM: "too little memory is left",
}
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE documents (
    doc INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    deleted INTEGER NOT NULL,          -- soft-deleted rows keep the order: nothing late can resurrect them
    version INTEGER,
    source_offset INTEGER NOT NULL,
    title TEXT,
    text TEXT,
    metadata BLOB,                     -- JSON
    content_hash BLOB,
    event_time_ms INTEGER NOT NULL,
    indexed_time_ms INTEGER NOT NULL,
    trace_id TEXT
);
CREATE TABLE chunks (
    label INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: an update has new labels
    doc INTEGER NOT NULL,
    first INTEGER NOT NULL,            -- span of the text, [first, last) in code points
    last INTEGER NOT NULL,
    vector BLOB NOT NULL               -- float16 or float32: as many bytes as `dim` says
);
CREATE INDEX chunks_by_doc ON chunks (doc);
"""

_FOR_OTHERS = """
CREATE TABLE IF NOT EXISTS repairs (doc INTEGER PRIMARY KEY);  -- an older record of it is the last in the topic
CREATE TABLE IF NOT EXISTS rejected (   -- records that could not be applied, until they are dead letters
    record_offset INTEGER PRIMARY KEY,
    key BLOB,
    value BLOB,
    headers BLOB NOT NULL,             -- JSON: pairs of name and base64, or null
    error TEXT NOT NULL,
    message TEXT NOT NULL
);
"""


@dataclass(slots=True)
class Progress:
    """How far a shard has come; stored with the rows it speaks of.

    next_offset: of the vectors topic, where to read on; None in a new shard. through: everything up to this source
    offset is reflected, -1 for nothing. as_of_ms: as of when. read_through, read_as_of_ms: what the records that were
    read say of both; in the middle of a compacted topic they say too much. read_ms: Kafka's time of the newest record
    that was read; None where the topic has no times. documents: those that can be found.
    """

    next_offset: int | None = None
    through: int = -1
    as_of_ms: int | None = None
    read_through: int = -1
    read_as_of_ms: int | None = None
    read_ms: int | None = None
    fingerprint: str | None = None
    dim: int | None = None
    documents: int = 0


_PROGRESS = tuple(item.name for item in fields(Progress))


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A row of `documents`, without its chunks."""

    doc: int
    id: str
    deleted: bool
    version: int | None
    source_offset: int
    title: str | None
    text: str | None
    metadata: dict[str, Any]
    event_time_ms: int
    indexed_time_ms: int
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class WholeDocument:
    """A document with its chunks, in the order of their spans, and the progress of its shard at that moment."""

    document: StoredDocument
    content_hash: bytes | None
    spans: tuple[tuple[int, int], ...]
    vectors: NDArray[Any]
    progress: Progress


class ChunkRow(NamedTuple):  # the cheapest to make; there are a hundred thousand of them
    """A chunk with what is derived from it. metadata: JSON of its document."""

    label: int
    doc: int
    vector: bytes
    title: str | None
    text: str
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of a document when a change of it arrives."""

    doc: int
    order: DocumentOrder
    deleted: bool


class ShardStore:
    """One writer (`transaction`, `held`: one thread at a time) and any number of readers (the rest, from any thread).

    Reading raises sqlite3.ProgrammingError once the store is closed.
    """

    def __init__(self, path: Path, epoch: str, dtype: str = "float16") -> None:
        """Open or create the file. dtype: of the vectors, float16 or float32.

        A file of another epoch or dtype is set aside. Raises ShardCorrupt if another process holds the file,
        StorageFull if the disk refuses.
        """
        self.path = path
        self.dtype = np.dtype(dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = _locked(path.with_suffix(".lock"))
        self._readers = Readers(lambda: _connect(path))
        try:
            self.writer = self._open({"format": FORMAT, "epoch": epoch, "dtype": dtype})
            self.writer.executescript(_FOR_OTHERS)
            stored = dict(self.writer.execute("SELECT name, value FROM meta"))
        except BaseException as error:
            self._lock_file.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise self.translated(error) from error
            raise
        self.outbox = Outbox(self.writer, self._readers)
        self.progress = progress_of(stored)
        self._made_ms: int = stored.get("made_ms", 0)
        self._written_ms: int = stored.get("written_ms", 0)
        self.file_id: str = stored["file_id"]
        self.committed_offset = self.progress.next_offset or 0

    @property
    def place_ms(self) -> int:
        """Deletes from before this time have been read, or what they delete was not there any more when it was.

        A place in the topic is as old as its record, however late that was read. But who begins at the beginning finds
        old records, and Kafka keeps tombstones for those who read them now: a file that is being built is as old as
        itself.
        """
        read_ms = self.progress.read_ms
        return self._written_ms if read_ms is None else max(read_ms, self._made_ms)

    def require_partitions(self, count: int) -> None:
        """Raises PartitionsChanged if the collection had another number of partitions when the file was made, and
        StorageFull if the disk refuses."""
        try:
            stored = self.writer.execute("SELECT value FROM meta WHERE name = 'partitions'").fetchone()
            if stored is None:
                self.writer.execute("INSERT INTO meta VALUES ('partitions', ?)", (count,))
        except sqlite3.DatabaseError as error:
            raise self.translated(error) from error
        if stored is not None and stored[0] != count:
            raise PartitionsChanged(stored[0], count)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Rows and progress become durable together, or not at all."""
        self.writer.execute("BEGIN IMMEDIATE")
        try:
            yield self.writer
            written_ms = self._write_progress()
            self.writer.execute("COMMIT")
            self._written_ms = written_ms
            self.committed_offset = self.progress.next_offset or 0
        except BaseException:
            if self.writer.in_transaction:  # where the disk is full SQLite may have rolled back itself
                self.writer.execute("ROLLBACK")
            raise

    def held(self, document_id: str) -> Held | None:
        """The order of a document, deleted ones included. Called by the writer."""
        row = self.writer.execute(
            "SELECT doc, version, source_offset, deleted FROM documents WHERE id = ?", (document_id,)
        ).fetchone()
        return None if row is None else Held(row[0], DocumentOrder(row[1], row[2]), bool(row[3]))

    def document(self, document_id: str) -> StoredDocument | None:
        """The row of a document, deleted or not; None if it was never seen."""
        sql = f"SELECT {_DOCUMENT} FROM documents WHERE id = ?"  # noqa: S608 - a constant
        with self._readers.reading() as connection:
            row = connection.execute(sql, (document_id,)).fetchone()
        return None if row is None else _document(row)

    def whole(self, doc: int) -> WholeDocument | None:
        """All of a document as it is held, deleted or not; None if there is no such row."""
        sql = f"SELECT content_hash, {_DOCUMENT} FROM documents WHERE doc = ?"  # noqa: S608 - a constant
        with self._readers.reading() as connection, _one_state(connection):
            row = connection.execute(sql, (doc,)).fetchone()
            chunks = connection.execute("SELECT first, last, vector FROM chunks WHERE doc = ? ORDER BY label", (doc,))
            rows = chunks.fetchall()
            progress = progress_of(dict(connection.execute("SELECT name, value FROM meta")))
        if row is None:
            return None
        vectors = np.frombuffer(b"".join(vector for *_, vector in rows), self.dtype)
        vectors = vectors.reshape(len(rows), progress.dim or 0)
        return WholeDocument(_document(row[1:]), row[0], tuple((row[0], row[1]) for row in rows), vectors, progress)

    def chunks(self, labels: Sequence[int]) -> dict[int, tuple[StoredDocument, int, int]]:
        """label → its document and its span, for those labels that still exist; all from one state of the file."""
        marks = ",".join("?" * len(labels))
        sql = f"SELECT label, first, last, {_DOCUMENT} FROM chunks JOIN documents USING (doc) WHERE label IN ({marks})"  # noqa: S608
        with self._readers.reading() as connection:
            rows = connection.execute(sql, labels).fetchall()
        documents: dict[int, StoredDocument] = {}
        found = {}
        for label, first, last, *columns in rows:
            document = documents.get(columns[0]) or documents.setdefault(columns[0], _document(columns))
            found[label] = (document, first, last)
        return found

    @contextmanager
    def state(self) -> Iterator[tuple[sqlite3.Connection, dict[str, Any]]]:
        """A connection that sees one state of the file in the block, whatever is written meanwhile, and its `meta`."""
        with self._readers.reading() as connection, _one_state(connection):
            yield connection, dict(connection.execute("SELECT name, value FROM meta"))

    @contextmanager
    def everything(self) -> Iterator[tuple[Progress, int, NDArray[np.int64], Iterator[ChunkRow]]]:
        """For what is derived from them: the progress of the file, the highest label ever given out, all labels
        ascending, and all chunks in their order.

        One state of the file, whatever is written meanwhile. Raises ShardCorrupt if the file is damaged.
        """
        try:
            with self.state() as (connection, meta):
                progress = progress_of(meta)
                labels = np.fromiter((row[0] for row in connection.execute("SELECT label FROM chunks")), np.int64)
                yield progress, _last_label(connection), np.sort(labels), _chunk_rows(connection)
        except sqlite3.ProgrammingError:  # closed meanwhile
            raise
        except sqlite3.DatabaseError as error:
            raise self.translated(error) from error

    def first_chunk(self, doc: int) -> tuple[StoredDocument, int, int] | None:
        """A document as it is now, with the span of its first chunk; None if it was deleted or has none."""
        sql = f"SELECT first, last, {_DOCUMENT} FROM chunks JOIN documents USING (doc) WHERE doc = ? ORDER BY label"  # noqa: S608
        with self._readers.reading() as connection:
            row = connection.execute(sql, (doc,)).fetchone()
        return None if row is None else (_document(row[2:]), row[0], row[1])

    def disk_bytes(self) -> int:
        """Of the file and what belongs to it, the snapshot among it."""
        size = 0
        for path in self.path.parent.glob(f"{self.path.stem}.*"):
            with suppress(FileNotFoundError):  # a snapshot that was being written is renamed
                size += path.stat().st_size
        return size

    def translated(self, error: sqlite3.DatabaseError) -> Exception:
        """What the caller should make of an error of SQLite. A damaged file is set aside for the next start."""
        refused = _refused(self.path, error)
        if refused is not None:
            return refused
        if _code(error) not in DAMAGE:
            return error
        set_aside(self.path, f"is damaged ({error})")
        return ShardCorrupt(
            f"{self.path} is damaged ({error}). It was set aside: start again, and the shard is rebuilt"
        )

    def last_label(self) -> int:
        """The highest label ever given out; 0 in a new shard."""
        return _last_label(self.writer)

    def end_reads(self) -> None:
        """Cut short what is being read; the store can only be closed after this."""
        self._readers.end()

    def close(self) -> None:
        """Close all connections, once nobody reads, and let go of the file."""
        self._readers.close()
        self.writer.close()
        self._lock_file.close()

    def _write_progress(self) -> int:
        written_ms = now_ms()
        rows = asdict(self.progress) | {"written_ms": written_ms}
        self.writer.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows.items())
        return written_ms

    def _open(self, kind: dict[str, str | int]) -> sqlite3.Connection:
        if self.path.exists():
            reason = _unusable(self.path, kind)
            if reason is None:
                return _connect(self.path)
            set_aside(self.path, reason)
        connection = _connect(self.path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            # labels begin anew in a new file: what is derived from another one must not be taken for its own
            [*kind.items(), ("made_ms", now_ms()), ("written_ms", now_ms()), ("file_id", uuid.uuid4().hex)],
        )
        return connection


_LAST_LABEL = "SELECT seq FROM sqlite_sequence WHERE name = 'chunks'"
_CHUNKS = "SELECT label, doc, first, last, vector FROM chunks ORDER BY label"
_TEXT = "SELECT title, text, metadata FROM documents WHERE doc = ?"
_DOCUMENT = "doc, id, deleted, version, source_offset, title, text, metadata, event_time_ms, indexed_time_ms, trace_id"


@contextmanager
def _one_state(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def progress_of(meta: dict[str, Any]) -> Progress:
    """From the rows of the table `meta`."""
    return Progress(**{name: meta[name] for name in _PROGRESS if name in meta})


def _last_label(connection: sqlite3.Connection) -> int:
    row = connection.execute(_LAST_LABEL).fetchone()
    return row[0] if row else 0


def _chunk_rows(connection: sqlite3.Connection) -> Iterator[ChunkRow]:
    held: tuple[int, str | None, str, bytes] = (-1, None, "", b"")
    for label, doc, first, last, vector in connection.execute(_CHUNKS):
        if doc != held[0]:  # chunks of a document are neighbours
            held = (doc, *connection.execute(_TEXT, (doc,)).fetchone())
        yield ChunkRow(label, doc, vector, held[1], held[2][first:last], held[3])


def _document(row: Sequence[Any]) -> StoredDocument:
    doc, document_id, deleted, version, source_offset, title, text, metadata, *times = row
    fields_of = orjson.loads(metadata) if metadata else {}
    return StoredDocument(doc, document_id, bool(deleted), version, source_offset, title, text, fields_of, *times)


def _connect(path: Path) -> sqlite3.Connection:
    # autocommit: transactions are begun by hand. Each connection is used by one thread, closed by another.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    # NORMAL in WAL mode: a kill -9 loses nothing; a power cut may lose the last transactions, rows and offset
    # together, and Kafka gives them again
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _code(error: sqlite3.DatabaseError) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _refused(path: Path, error: sqlite3.DatabaseError) -> StorageFull | None:
    """Where the disk is to blame and not the file."""
    advice = _DISK_ERRORS.get(_code(error))
    return None if advice is None else StorageFull(f"{path} cannot be written or read ({error}): {advice}")


def _unusable(path: Path, kind: dict[str, str | int]) -> str | None:
    """Why the file cannot be continued, or None."""
    try:
        with closing(_connect(path)) as connection:
            meta = dict(connection.execute("SELECT name, value FROM meta"))
            connection.execute(_LAST_LABEL).fetchone()
    except sqlite3.DatabaseError as error:
        refused = _refused(path, error)
        if refused is not None:
            raise refused from error
        return f"is not a shard file ({error})"
    if meta.get("format") != FORMAT:
        return f"has format {meta.get('format')}, this program writes {FORMAT}"
    if meta.get("epoch") != kind["epoch"]:
        return "belongs to another life of the topics (they were deleted and made again): its offsets mean nothing now"
    if meta.get("dtype") != kind["dtype"]:
        return f"holds vectors as {meta.get('dtype')}, HEADRACE_VECTOR_STORAGE says {kind['dtype']}"
    return None


def set_aside(path: Path, reason: str) -> None:
    """Keep a file that cannot be continued under another name; the next start begins anew."""
    kept = path.with_name(f"{path.name}.unusable-{now_ms()}")
    log.warning("%s %s. Keeping it as %s and rebuilding from the vectors topic.", path, reason, kept.name)
    path.rename(kept)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _locked(path: Path) -> IO[bytes]:
    file = path.open("ab")
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise ShardCorrupt(
                    f"another process uses {path}: two index workers with the same replica name need "
                    "different HEADRACE_DATA_DIR"
                ) from None
            time.sleep(0.1)


def now_ms() -> int:
    """Wall clock."""
    return time.time_ns() // 1_000_000
