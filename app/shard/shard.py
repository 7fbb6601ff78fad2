"""One shard: applies records, answers queries, says how far it has come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.event import Event
from app.settings import Settings
from app.shard.apply import Applier, Change
from app.shard.filters import compile_filter, matches
from app.shard.generation import Ranked
from app.shard.graph import Graph
from app.shard.index import HnswIndex, Mask
from app.shard.store import ShardStore, StoredDocument
from schemas.errors import BadRequest, NotServing
from schemas.filters import Filter, filter_fields

log = logging.getLogger("headrace.shard")

_LOAD_ROWS = 8192
_RETRIES = 200
_RETRY_S = 0.001  # lets the writer publish what it has committed


@dataclass(frozen=True, slots=True)
class ShardHit:
    """A document as found. text: its best chunk; score: -1 to 1."""

    document: StoredDocument
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """A shard for people and for the gateway. Times in ms since the epoch; None where nothing was applied yet."""

    partition: int
    state: str
    documents: int
    chunks: int
    buffered: int
    graph_dead_ratio: float
    applied_offset: int | None
    as_of_ms: int | None
    next_offset: int | None
    fingerprint: str | None


class Shard:
    """`apply` is called by one thread at a time, `absorb` by another, everything else by any."""

    def __init__(self, partition: int, path: Path, epoch: str, settings: Settings) -> None:
        """Open the file and load its vectors; they can be searched when this returns, the graph is built later."""
        self.partition = partition
        self._settings = settings
        self._store = ShardStore(path, epoch, settings.tombstone_retention_hours * 3_600_000)
        self._applier = Applier(self._store, epoch)
        self._index: HnswIndex | None = None
        self._listeners: list[Callable[[], object]] = []
        self._listeners_lock = threading.Lock()
        self.ready_at: int | None = None
        self._load()
        # what the published generation holds; the store's own progress runs ahead of it while a transaction is applied
        self._visible = replace(self._store.progress)

    @property
    def next_offset(self) -> int | None:
        """Where to read on in the vectors topic; None in a new shard."""
        return self._store.progress.next_offset

    @property
    def ready(self) -> bool:
        """Whether what was in the topic when the shard was opened has been applied."""
        return self.ready_at is not None and (self._visible.next_offset or 0) >= self.ready_at

    def apply(self, events: Sequence[Event]) -> Change:
        """Apply records in offset order; what they say can be found when this returns. See Applier.apply."""
        change = self._applier.apply(events)
        if change.labels and self._index is None:
            self._index = self._new_index(change.labels[0])
        if change.labels or change.removed:
            assert self._index is not None
            vectors = np.stack(change.vectors) if change.vectors else np.empty((0, self._dim), np.float32)
            self._index.publish(change.labels, change.docs, vectors, change.removed)
        self._visible = replace(self._store.progress)
        with self._listeners_lock:
            listeners = tuple(self._listeners)
        for notify in listeners:
            notify()
        return change

    def absorb(self, *, pressed: bool) -> bool:
        """Move a slice of the write buffer into the graph if it is time; see HnswIndex.absorb."""
        return self._index is not None and self._index.absorb(pressed=pressed)

    def search(
        self, vector: NDArray[np.float32], k: int, parsed: Filter | None, fingerprint: str | None
    ) -> list[ShardHit]:
        """The best k documents, best first.

        vector: shape (dim,), unit length. fingerprint: of the model that made it, None to trust the caller.
        Raises BadRequest for a wrong dimension, NotServing for another model's vector.
        """
        index = self._index
        if index is None:
            return []
        self._check_query(vector, fingerprint)
        for _ in range(_RETRIES):
            allowed = None if parsed is None else self._allowed(parsed)
            hits = self._hydrated(index.search(vector, k, allowed), parsed)
            if hits is not None:
                return hits
            time.sleep(_RETRY_S)
        raise NotServing(f"shard {self.partition} changes faster than it can be read")

    def unknown_fields(self, parsed: Filter) -> set[str]:
        """Fields of the filter that no document of this shard has."""
        return filter_fields(parsed) - self._store.field_names()

    def field_names(self) -> set[str]:
        """The metadata fields that documents of this shard have."""
        return self._store.field_names()

    def document(self, document_id: str) -> StoredDocument | None:
        """The stored document; a deleted one has `deleted` set; None if it was never seen."""
        return self._store.document(document_id)

    def status(self) -> ShardStatus:
        """See ShardStatus."""
        progress = self._visible  # before the index: what it says is in there
        index = self._index
        return ShardStatus(
            partition=self.partition,
            state="ready" if self.ready else "loading",
            documents=progress.documents,
            chunks=index.chunks if index else 0,
            buffered=index.buffered if index else 0,
            graph_dead_ratio=index.graph_dead_ratio if index else 0.0,
            applied_offset=progress.through if progress.through >= 0 else None,
            as_of_ms=progress.as_of_ms,
            next_offset=progress.next_offset,
            fingerprint=progress.fingerprint,
        )

    def listen(self, notify: Callable[[], object]) -> Callable[[], None]:
        """Have `notify` called after every transaction, in the writer's thread; returns what ends it."""
        with self._listeners_lock:
            self._listeners.append(notify)

        def forget() -> None:
            with self._listeners_lock:
                self._listeners.remove(notify)

        return forget

    def close(self) -> None:
        """Close the file; no other method may be called after this."""
        self._store.close()

    @property
    def _dim(self) -> int:
        assert self._store.progress.dim is not None
        return self._store.progress.dim

    def _new_index(self, first_label: int) -> HnswIndex:
        settings = self._settings
        graph = Graph(self._dim, settings.hnsw_m, settings.hnsw_ef_construction, settings.hnsw_ef_search)
        return HnswIndex(self._dim, graph, first_label, settings.write_buffer_rows)

    def _load(self) -> None:
        started = time.perf_counter()
        rows = self._store.chunk_rows()
        while block := list(islice(rows, _LOAD_ROWS)):
            labels, docs, blobs = zip(*block, strict=True)
            if self._index is None:
                self._index = self._new_index(labels[0])
            matrix = np.frombuffer(b"".join(blobs), np.float16).reshape(len(blobs), self._dim)
            self._index.publish(labels, docs, matrix.astype(np.float32), [])
        if self._index is not None:
            elapsed_ms = (time.perf_counter() - started) * 1000
            log.info("shard %d: %d chunks loaded in %.0f ms", self.partition, self._index.chunks, elapsed_ms)

    def _check_query(self, vector: NDArray[np.float32], fingerprint: str | None) -> None:
        if len(vector) != self._dim:
            raise BadRequest(f"vector: has {len(vector)} dimensions, the index has {self._dim}")
        own = self._store.progress.fingerprint
        if fingerprint is not None and fingerprint != own:
            raise NotServing(f"shard {self.partition} holds vectors of {own}, the query is of {fingerprint}")

    def _allowed(self, parsed: Filter) -> Mask:
        sql, parameters = compile_filter(parsed)
        docs = np.fromiter((row[0] for row in self._store.read().execute(sql, parameters)), np.int64)
        mask = np.zeros(int(docs.max()) + 2 if len(docs) else 1, np.bool_)  # one beyond the last is always False
        mask[docs] = True
        return mask

    def _hydrated(self, ranked: list[Ranked], parsed: Filter | None) -> list[ShardHit] | None:
        """Rows for what was found; None if one of them was replaced in between: then search again."""
        chunks = self._store.chunks([item.label for item in ranked])
        if len(chunks) < len(ranked):
            return None
        hits = [ShardHit(*chunks[item.label], item.score) for item in ranked]
        # what was allowed a moment ago may have been replaced by what is not
        return hits if parsed is None or all(matches(parsed, hit.document.metadata) for hit in hits) else None
