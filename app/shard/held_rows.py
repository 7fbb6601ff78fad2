"""What a shard's file holds of documents, without their texts: for comparing it with the log (`headrace audit`)."""

from __future__ import annotations

import base64
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from app.order import DocumentOrder
from app.shard.store import ShardStore

MOST_ROWS = 1000  # of one answer: some 30 ms, in a thread of its own
_LENGTHS = struct.Struct("<qqqq")
_SPAN = struct.Struct("<qq")

Chunk = tuple[int, int, bytes]  # first, last, vector in the bytes of the store's dtype


class ShardRow(NamedTuple):
    """A document as a shard holds it. content_hash: None for a deleted one. digest: see `content_digest`.

    vectors: 16 bytes over its vectors, see `vectors_digest`.
    """

    id: str
    version: int | None
    source_offset: int
    deleted: bool
    content_hash: bytes | None
    chunks: int
    digest: bytes
    vectors: bytes

    @property
    def order(self) -> DocumentOrder:
        """Of the last change that was applied."""
        return DocumentOrder(self.version, self.source_offset)

    def encode(self) -> list[Any]:
        """As JSON."""
        content_hash = None if self.content_hash is None else self.content_hash.hex()
        return [*self[:4], content_hash, self.chunks, self.digest.hex(), self.vectors.hex()]

    @classmethod
    def decode(cls, fields: list[Any]) -> ShardRow:
        """The reverse of `encode`. Raises ValueError or TypeError."""
        document_id, version, source_offset, deleted, content_hash, chunks, *digests = fields
        held = None if content_hash is None else bytes.fromhex(content_hash)
        digest, vectors = map(bytes.fromhex, digests)
        return cls(document_id, version, source_offset, deleted, held, chunks, digest, vectors)


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Rows of one state of the file: it has applied all records before `next_offset`, and none after.

    vectors: of all chunks of the document, if a single one was asked for with them, in the order of `sorted_chunks`.
    """

    epoch: str
    dtype: str
    next_offset: int
    rows: list[ShardRow]
    vectors: bytes | None = None

    def encode(self) -> dict[str, Any]:
        """As JSON."""
        told = {"epoch": self.epoch, "dtype": self.dtype, "next_offset": self.next_offset}
        told |= {"rows": [row.encode() for row in self.rows]}
        return told if self.vectors is None else told | {"vectors": base64.b64encode(self.vectors).decode()}

    @classmethod
    def decode(cls, fields: dict[str, Any]) -> HeldRows:
        """The reverse of `encode`. Raises KeyError, TypeError or ValueError."""
        rows = [ShardRow.decode(row) for row in fields["rows"]]
        vectors = base64.b64decode(fields["vectors"]) if "vectors" in fields else None
        return cls(fields["epoch"], fields["dtype"], fields["next_offset"], rows, vectors)


def sorted_chunks(chunks: Iterable[Chunk]) -> list[Chunk]:
    """In an order that does not depend on their labels."""
    return sorted(chunks, key=lambda chunk: chunk[:2])


def content_digest(title: str | None, text: str | None, metadata: bytes, chunks: Sequence[Chunk]) -> bytes:
    """16 bytes over what a search can return of a document. metadata: JSON. chunks: sorted; their spans count."""
    parts = [(title or "").encode(errors="replace"), (text or "").encode(errors="replace"), metadata]
    digest = blake2b(_LENGTHS.pack(title is None, *map(len, parts)), digest_size=16)
    for part in parts:
        digest.update(part)
    for first, last, _ in chunks:
        digest.update(_SPAN.pack(first, last))
    return digest.digest()


def vectors_digest(chunks: Sequence[Chunk]) -> bytes:
    """16 bytes over the vectors as they are stored. chunks: sorted."""
    digest = blake2b(digest_size=16)
    for *_, vector in chunks:
        digest.update(vector)
    return digest.digest()


def rows_after(store: ShardStore, after: str | None, limit: int) -> HeldRows:
    """The next rows by id, deleted ones included. after: the last id seen; None to begin. limit: 0 to MOST_ROWS.

    Raises sqlite3.ProgrammingError once the store is closed.
    """
    with store.state() as (connection, meta):
        if after is None:
            return _held(connection, meta, connection.execute(_FIRST, (limit,)))
        return _held(connection, meta, connection.execute(_NEXT, (after, limit)))


def rows_of(store: ShardStore, ids: Sequence[str]) -> HeldRows:
    """The rows of documents; one that was never seen is left out. ids: MOST_ROWS at most. Raises as `rows_after`."""
    with store.state() as (connection, meta):
        marks = ",".join("?" * len(ids))  # json_each would cut an id at U+0000
        return _held(connection, meta, connection.execute(f"{_DOCUMENTS} WHERE id IN ({marks})", ids))


def whole_row(store: ShardStore, document_id: str) -> HeldRows:
    """The row of one document, if there is one, and its vectors. Raises as `rows_after`."""
    with store.state() as (connection, meta):
        found = connection.execute(_ONE, (document_id,)).fetchall()
        vectors = b"".join(vector for row in found for *_, vector in _chunks(connection, row[0]))
        rows = [_row(connection, row) for row in found]
        return HeldRows(meta["epoch"], meta["dtype"], meta.get("next_offset") or 0, rows, vectors)


def _held(connection: sqlite3.Connection, meta: Mapping[str, Any], found: Iterable[Sequence[Any]]) -> HeldRows:
    rows = [_row(connection, row) for row in found]
    return HeldRows(meta["epoch"], meta["dtype"], meta.get("next_offset") or 0, rows)


def _row(connection: sqlite3.Connection, row: Sequence[Any]) -> ShardRow:
    doc, document_id, version, source_offset, deleted, content_hash, title, text, metadata = row
    chunks = _chunks(connection, doc)
    digests = content_digest(title, text, metadata or b"", chunks), vectors_digest(chunks)
    return ShardRow(document_id, version, source_offset, bool(deleted), content_hash, len(chunks), *digests)


def _chunks(connection: sqlite3.Connection, doc: int) -> list[Chunk]:
    return sorted_chunks(connection.execute(_CHUNKS, (doc,)))


_DOCUMENTS = "SELECT doc, id, version, source_offset, deleted, content_hash, title, text, metadata FROM documents"
_FIRST = _DOCUMENTS + " ORDER BY id LIMIT ?"
_NEXT = _DOCUMENTS + " WHERE id > ? ORDER BY id LIMIT ?"
_ONE = _DOCUMENTS + " WHERE id = ?"
_CHUNKS = "SELECT first, last, vector FROM chunks WHERE doc = ? ORDER BY label"
