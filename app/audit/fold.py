"""The last state of every document of a partition, as its records or its changes say; texts are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import orjson

from app.embed.coalesce import coalesce
from app.embed.events import Work
from app.event import Event
from app.order import DocumentOrder
from app.shard.apply import document_of
from app.shard.held_rows import Chunk, content_digest, sorted_chunks, vectors_digest
from schemas.errors import InvalidVectorRecord
from schemas.headers import decode_headers
from schemas.vector_record import VectorRecord, decode_vector_record


class Logged(NamedTuple):
    """A document as `.vectors` says. offset: of the record there. digest, vectors: as of a ShardRow, the latter for
    each dtype of the fold."""

    version: int | None
    source_offset: int
    deleted: bool
    offset: int
    content_hash: bytes | None
    digest: bytes
    vectors: tuple[bytes, ...]

    @property
    def order(self) -> DocumentOrder:
        """Of the change it reflects."""
        return DocumentOrder(self.version, self.source_offset)


class VectorsFold:
    """Folds a partition of `.vectors` as a shard does (app.shard.apply), in two parts: everything up to some offset,
    then, of a few documents, what comes after it. dtypes: of the shards that are to be compared with it."""

    def __init__(self, epoch: str, dtypes: Sequence[str]) -> None:
        self._epoch = epoch
        self.dtypes = tuple(dtypes)
        self.states: dict[str, Logged] = {}
        self._later: dict[str, list[Logged]] | None = None
        self.through = -1
        self.as_of_ms = 0
        self.rejected = 0

    def take(self, events: Iterable[Event]) -> None:
        """The next records, in offset order."""
        for event in events:
            self._take(event)

    def follow(self, ids: Iterable[str]) -> None:
        """From now on every state of these documents is kept, and nothing of others."""
        self._later = (self._later or {}) | {document_id: [] for document_id in ids}

    def at(self, document_id: str, next_offset: int) -> Logged | None:
        """What the records before `next_offset` say, of a document that is followed; None: nothing."""
        for state in reversed((self._later or {}).get(document_id, [])):
            if state.offset < next_offset:
                return state
        return self.states.get(document_id)

    def now(self, document_id: str) -> Logged | None:
        """What all records that were taken say."""
        later = (self._later or {}).get(document_id)
        return later[-1] if later else self.states.get(document_id)

    def _take(self, event: Event) -> None:
        try:
            headers = decode_headers(event.headers)
            is_document = headers.kind == "document"
            record = decode_vector_record(event.value) if is_document and event.value is not None else None
            if is_document and record is None:
                raise InvalidVectorRecord("a document without a value")
            document_id = "" if headers.kind == "watermark" else document_of(event, record)
        except InvalidVectorRecord:
            self.rejected += 1
            return
        if headers.epoch != self._epoch:
            return
        if headers.through >= self.through:
            self.through, self.as_of_ms = headers.through, max(headers.as_of_ms, self.as_of_ms)
        if headers.kind == "watermark":
            return
        held = self.now(document_id)
        order = DocumentOrder(headers.version, headers.source_offset)
        if held is not None:
            if not order.supersedes(held.order) and order.source_offset != held.source_offset:
                return
            # of the same change the last record counts, as in a topic that has been compacted
            order = order.after(held.order).with_floor(held.version)
        order = order.with_floor(headers.version_floor)
        content_hash = None if record is None else record.content_hash
        digest, vectors = (b"", ()) if record is None else self._digests(record)
        state = Logged(order.version, order.source_offset, record is None, event.offset, content_hash, digest, vectors)
        if self._later is None:
            self.states[document_id] = state
        elif document_id in self._later:
            self._later[document_id].append(state)

    def _digests(self, record: VectorRecord) -> tuple[bytes, tuple[bytes, ...]]:
        chunks = [stored_chunks(record, dtype) for dtype in self.dtypes] or [stored_chunks(record, "float16")]
        digest = content_digest(record.title, record.text, orjson.dumps(record.metadata), chunks[0])
        return digest, tuple(map(vectors_digest, chunks))


class LastChange(NamedTuple):
    """The change of a document that counts, as `.changes` says. offset: of the event there. place: see Work."""

    version: int | None
    place: int
    offset: int
    deleted: bool
    content_hash: bytes
    timestamp_ms: int

    @property
    def order(self) -> DocumentOrder:
        """Its place among the changes of its document."""
        return DocumentOrder(self.version, self.place)


class ChangesFold:
    """Folds a partition of `.changes` as the embed worker and the shards do; what can never succeed is left out.

    ends: by key, the offset of its last event, whatever that is.
    """

    def __init__(self, max_text_bytes: int) -> None:
        self._max_text_bytes = max_text_bytes
        self.states: dict[str, LastChange] = {}
        self.ends: dict[str, int] = {}

    def take(self, events: Sequence[Event]) -> None:
        """The next events of one partition, in offset order."""
        for event in events:
            self.ends[(event.key or b"").decode(errors="replace")] = event.offset
        works, _ = coalesce(events, self._max_text_bytes)
        for work in sorted(works, key=lambda item: item.event.offset):
            self._take(work)

    def _take(self, work: Work) -> None:
        held, order = self.states.get(work.change.id), work.order
        if held is not None:
            if not order.supersedes(held.order):
                return
            order = order.after(held.order)
        deleted = work.change.op == "delete"
        self.states[work.change.id] = LastChange(
            order.version, work.place, work.event.offset, deleted, work.content_hash, work.event.timestamp_ms
        )


def stored_chunks(record: VectorRecord, dtype: str) -> list[Chunk]:
    """The chunks of a record as a shard stores them, sorted."""
    stored = record.vectors.astype(np.dtype(dtype), copy=False)
    pairs = zip(record.spans, stored, strict=True)
    return sorted_chunks((first, last, vector.tobytes()) for (first, last), vector in pairs)
