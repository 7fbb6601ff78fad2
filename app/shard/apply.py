"""Records of the vectors topic into a shard's rows: one transaction for a micro-batch."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.crash import crash_point
from app.event import Event
from app.observe.tracing import trace_id_of
from app.order import DocumentOrder
from app.shard.store import Held, ShardStore, now_ms
from schemas.errors import FingerprintMismatch, InvalidVectorRecord
from schemas.headers import RecordHeaders, decode_headers
from schemas.vector_record import VectorRecord, decode_vector_record


@dataclass(frozen=True, slots=True)
class AppliedDocument:
    """A change that became visible with its transaction. offset: of its record. vector: of one of its chunks, of a
    delete one of those that are gone; None where there are none."""

    id: str
    title: str | None
    headers: RecordHeaders
    chunks: int
    offset: int
    vector: NDArray[np.float16] | NDArray[np.float32] | None


@dataclass(slots=True)
class Change:
    """What a transaction does to the index: per new chunk, labels ascending, what is derived from it."""

    labels: list[int] = field(default_factory=list)
    docs: list[int] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    texts: list[tuple[str | None, str]] = field(default_factory=list)  # title, and text of the chunk
    removed: list[int] = field(default_factory=list)
    documents: list[AppliedDocument] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    rejected: list[tuple[Event, InvalidVectorRecord]] = field(default_factory=list)


class Applier:
    """Writes into one store. Called by one thread at a time."""

    def __init__(self, store: ShardStore, epoch: str) -> None:
        self._store = store
        self._epoch = epoch
        self._next_label = store.last_label() + 1

    def apply(self, events: Sequence[Event], complete_at: int | None = None) -> Change:
        """Apply records in offset order, rows and progress in one transaction.

        complete_at: the offset before which the topic may have been compacted: a record there says that everything
        before it is reflected, which may be in a record that is yet to come, since a later change took its place.
        So what records say is believed from there on; None: at once.

        A record older than what its document holds changes nothing, and is the last of its key in the topic now: what
        is held must be written there again. One that says the same again changes nothing either. One that says
        otherwise of the same change (other chunks, say) replaces what is held: the last record counts, as it does in a
        topic that has been compacted.

        Raises FingerprintMismatch, StorageFull (nothing was applied; try again), ShardCorrupt (the file was set aside).
        """
        change = Change()
        next_label, before = self._next_label, replace(self._store.progress)
        try:
            with self._store.outbox.transaction(), self._store.transaction():
                for event in events:
                    change.outcomes[self._apply_one(event, change)] += 1
                    crash_point("index.in_transaction")
                self._believe(complete_at)
        except BaseException as error:
            self._next_label, self._store.progress = next_label, before
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError):
                raise self._store.translated(error) from error
            raise
        return change

    def _apply_one(self, event: Event, change: Change) -> str:
        progress = self._store.progress
        if progress.next_offset is not None and event.offset < progress.next_offset:
            return "redelivered"
        progress.next_offset = event.offset + 1
        if event.timestamp_ms > 0:  # never later than now: the place must not seem younger than it is
            progress.read_ms = max(min(event.timestamp_ms, now_ms()), progress.read_ms or 0)
        try:
            headers = decode_headers(event.headers)
            record = (
                decode_vector_record(event.value) if headers.kind == "document" and event.value is not None else None
            )
            if headers.kind == "document" and record is None:
                raise InvalidVectorRecord("a document without a value")
            document_id = "" if headers.kind == "watermark" else document_of(event, record)
        except InvalidVectorRecord as error:
            change.rejected.append((event, error))
            self._store.outbox.reject(event, error)
            self._covered((event.key or b"").decode(errors="replace"))
            return "rejected"
        if headers.epoch != self._epoch:  # from before the topics were made again: its offsets mean nothing here
            if headers.kind != "watermark":
                self._covered(document_id)
            return "foreign_epoch"
        headers.stages["arrived"] = event.consumed_ns
        if headers.kind == "watermark":
            outcome = "watermark"
        else:
            outcome = self._apply_document(document_id, event.offset, headers, record, change)
        if headers.through >= progress.read_through:
            progress.read_through = headers.through
            progress.read_as_of_ms = max(_as_of_ms(headers, event), progress.read_as_of_ms or 0)
        return outcome

    def _covered(self, document_id: str) -> None:
        """A record that is not applied is the last of its key now: compaction would keep it, and not what is held."""
        held = self._store.held(document_id)
        if held is not None:
            self._store.outbox.must_repair(held.doc)

    def _believe(self, complete_at: int | None) -> None:
        progress = self._store.progress
        if complete_at is None or (progress.next_offset or 0) >= complete_at:
            progress.through = max(progress.through, progress.read_through)
            progress.as_of_ms = max(progress.as_of_ms or 0, progress.read_as_of_ms or 0) or None

    def _apply_document(
        self, document_id: str, offset: int, headers: RecordHeaders, record: VectorRecord | None, change: Change
    ) -> str:
        said = DocumentOrder(headers.version, headers.source_offset)
        floor = headers.version_floor
        held = self._store.held(document_id)
        if held is None or said.supersedes(held.order):
            # never below what is held: whoever wrote it may not have known the highest
            order = (said if held is None else said.after(held.order)).with_floor(floor)
        elif said.source_offset != held.order.source_offset:
            self._compare(held.doc, said.with_floor(floor), held.order)
            return "stale"
        else:
            order = said.with_floor(floor).with_floor(held.order.version)
            if order == held.order and self._holds(held, record):
                self._compare(held.doc, said.with_floor(floor), held.order)
                return "repeated"
        if record is not None:
            self._check_model(record)
        doc = self._write_row(document_id, order, headers, record, held)
        self._compare(doc, said.with_floor(floor), order)
        gone = self._remove_chunks(doc, change) if held is not None else None
        chunk_count = self._write_chunks(doc, record, change)
        was_there = held is not None and not held.deleted
        self._store.progress.documents += (record is not None) - was_there
        vector = gone if record is None else record.vectors[0] if chunk_count else None
        title = None if record is None else record.title
        change.documents.append(AppliedDocument(document_id, title, headers, chunk_count, offset, vector))
        return "upsert" if record is not None else "delete"

    def _compare(self, doc: int, said: DocumentOrder, held: DocumentOrder) -> None:
        """A shard that sees nothing but this record, the last of its document so far, must hold what this one holds."""
        if said == held:
            self._store.outbox.repaired(doc)
        else:
            self._store.outbox.must_repair(doc)

    def _holds(self, held: Held, record: VectorRecord | None) -> bool:
        """Whether the row of a document is what its record says, but for what rounding does to vectors."""
        if record is None or held.deleted:
            return record is None and held.deleted
        row = self._store.writer.execute(
            "SELECT title, text, metadata, content_hash FROM documents WHERE doc = ?", (held.doc,)
        ).fetchone()
        if row != (record.title, record.text, orjson.dumps(record.metadata), record.content_hash):
            return False
        chunks = self._store.writer.execute(
            "SELECT first, last, vector FROM chunks WHERE doc = ? ORDER BY label", (held.doc,)
        ).fetchall()
        if tuple((first, last) for first, last, _ in chunks) != record.spans:
            return False
        stored = np.frombuffer(b"".join(vector for *_, vector in chunks), self._store.dtype)
        if stored.size != record.vectors.size:
            return False
        products = stored.astype(np.float32).reshape(record.vectors.shape) * record.vectors
        return bool((products.sum(axis=1) > SAME_COSINE).all())

    def _check_model(self, record: VectorRecord) -> None:
        progress, dim = self._store.progress, record.vectors.shape[1]
        if progress.fingerprint is None:
            progress.fingerprint, progress.dim = record.fingerprint, dim
        elif (record.fingerprint, dim) != (progress.fingerprint, progress.dim):
            raise FingerprintMismatch(
                f"{self._store.path} holds vectors of {progress.fingerprint} with {progress.dim} dimensions, now come "
                f"those of {record.fingerprint} with {dim} dimensions. "
                "Give the other model a collection of its own (HEADRACE_COLLECTION)."
            )

    def _write_row(
        self,
        document_id: str,
        order: DocumentOrder,
        headers: RecordHeaders,
        record: VectorRecord | None,
        held: Held | None,
    ) -> int:
        values = (
            record is None,
            order.version,
            order.source_offset,
            record.title if record else None,
            record.text if record else None,
            orjson.dumps(record.metadata) if record else None,
            record.content_hash if record else None,
            headers.event_time_ms,
            time.time_ns() // 1_000_000,
            trace_id_of(headers.traceparent),
        )
        writer = self._store.writer
        if held is not None:
            writer.execute(_UPDATE, (*values, held.doc))
            return held.doc
        doc = writer.execute(_INSERT, (document_id, *values)).lastrowid
        assert doc is not None
        return doc

    def _remove_chunks(self, doc: int, change: Change) -> NDArray[np.float16] | NDArray[np.float32] | None:
        """Returns the vector of one of them."""
        sql = "DELETE FROM chunks WHERE doc = ? RETURNING label, vector"
        old = self._store.writer.execute(sql, (doc,)).fetchall()
        self._forget([label for label, _ in old], change)
        return np.frombuffer(old[0][1], self._store.dtype) if old else None

    def _write_chunks(self, doc: int, record: VectorRecord | None, change: Change) -> int:
        writer = self._store.writer
        if record is None:
            return 0
        labels = range(self._next_label, self._next_label + len(record.spans))
        self._next_label = labels.stop
        stored = record.vectors.astype(self._store.dtype, copy=False)
        rows = zip(labels, record.spans, stored, strict=True)
        writer.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)",
            [(label, doc, span[0], span[1], vector.tobytes()) for label, span, vector in rows],
        )
        change.labels.extend(labels)
        change.docs.extend([doc] * len(labels))
        change.vectors.extend(stored.astype(np.float32))
        change.metadata.extend([record.metadata] * len(labels))
        change.texts.extend((record.title, record.text[first:last]) for first, last in record.spans)
        return len(labels)

    @staticmethod
    def _forget(old: list[int], change: Change) -> None:
        """Chunks that were added in this very transaction never reach the index."""
        for label in old:
            if change.labels and label >= change.labels[0]:
                at = change.labels.index(label)
                for column in (change.labels, change.docs, change.vectors, change.metadata, change.texts):
                    del column[at]
            else:
                change.removed.append(label)


def _as_of_ms(headers: RecordHeaders, event: Event) -> int:
    """As the record says, but not later than Kafka took it, nor than now: a clock that is ahead makes nothing fresh."""
    taken_ms = event.timestamp_ms if event.timestamp_ms > 0 else headers.as_of_ms
    return min(headers.as_of_ms, taken_ms, now_ms())


def document_of(event: Event, record: VectorRecord | None) -> str:
    """The id of the document a record is about: its key, which compaction goes by. Raises InvalidVectorRecord."""
    try:
        key = (event.key or b"").decode()
    except UnicodeDecodeError as error:
        raise InvalidVectorRecord(f"the key is not UTF-8: {error}") from error
    if not key or (record is not None and record.id != key):
        raise InvalidVectorRecord(f"the key is {key!r}, the document {record.id if record else None!r}")
    return key


SAME_COSINE = 0.999  # as near as runtimes of one fingerprint must be

_UPDATE = (
    "UPDATE documents SET deleted = ?, version = ?, source_offset = ?, title = ?, text = ?, metadata = ?, "
    "content_hash = ?, event_time_ms = ?, indexed_time_ms = ?, trace_id = ? WHERE doc = ?"
)
_INSERT = (
    "INSERT INTO documents (id, deleted, version, source_offset, title, text, metadata, content_hash, event_time_ms, "
    "indexed_time_ms, trace_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
