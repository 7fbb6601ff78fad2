"""One shard: applies records, answers queries, says how far it has come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.crash import crash_point
from app.event import Event
from app.settings import Settings
from app.shard import graph as graph_module
from app.shard.apply import Applier, Change
from app.shard.generation import Generation, Ranked, Rows
from app.shard.graph import Graph
from app.shard.held_rows import HeldRows, rows_after, rows_of, whole_row
from app.shard.hits import MOST_CHUNKS, ShardHit, by_meaning, by_words, merged
from app.shard.index import HnswIndex
from app.shard.keyword_feed import KeywordFeed, KeywordView
from app.shard.load import Loaded, load
from app.shard.outbox import Outbox
from app.shard.snapshot import SnapshotFacts
from app.shard.status import ShardStatus, shard_status
from app.shard.store import Progress, ShardStore, StoredDocument, WholeDocument, now_ms
from app.shard.upkeep import Upkeep
from schemas.errors import BadRequest, NotServing, ShardCorrupt
from schemas.filters import Filter, filter_fields

log = logging.getLogger("headrace.shard")

_FIRST_ROWS = 1024
_RETRIES = 200
_RETRY_S = 0.001  # lets the writer publish what it has committed
_SPARE = 8
_LEAST_DEPTH = 20  # of each list of a hybrid search: rank fusion needs to see where a document is in both


class Shard:
    """`apply` is called by one thread at a time; so are `load`, `absorb`, `refresh_keywords` and `maintain`, each by
    a thread of its own; everything else by any. Until `load` has ended searches are refused, records are not."""

    def __init__(
        self, partition: int, path: Path, epoch: str, settings: Settings, partitions: int | None = None
    ) -> None:
        """Open the file, or create it. partitions: that the collection has; one that had another number when the file
        was made raises PartitionsChanged."""
        self.partition = partition
        self._settings = settings
        self._store = ShardStore(path, epoch, settings.vector_storage)
        if partitions is not None:
            try:
                self._store.require_partitions(partitions)
            except BaseException:
                self._store.close()
                raise
        self._applier = Applier(self._store, epoch)
        self._index: HnswIndex | None = None
        self._keywords = KeywordFeed(settings.keyword_stemmer)
        self._upkeep = Upkeep(f"shard {partition}", path.with_suffix(".graph"), settings, self._words_sequence)
        self._listeners: list[Callable[[], object]] = []
        self._listeners_lock = threading.Lock()
        self._publishing = threading.Lock()
        self._unpublished: list[tuple[Change, Progress]] | None = []  # None: loaded
        self.ready_at: int | None = None
        self.live_from: int | None = None
        # what the published generation holds; the store's own progress runs ahead of it while a transaction is applied
        self._visible = Progress()

    @property
    def next_offset(self) -> int | None:
        """Where to read on in the vectors topic; None in a new shard."""
        return self._store.progress.next_offset

    @property
    def may_miss_deletes(self) -> bool:
        """Whether Kafka may have removed tombstones that come after the place where reading goes on."""
        return now_ms() - self._store.place_ms > self._settings.tombstone_retention_hours * 3_600_000

    @property
    def stored_bytes(self) -> int:
        """Size of the file and what belongs to it; 0 where there is nothing to load."""
        return 0 if self._store.progress.dim is None else self._store.disk_bytes()

    @property
    def loaded(self) -> bool:
        """Whether searches are answered."""
        return self._unpublished is None

    @property
    def ready(self) -> bool:
        """Whether what was in the topic when the shard was opened has been applied."""
        return self.loaded and self.ready_at is not None and (self._visible.next_offset or 0) >= self.ready_at

    @property
    def live(self) -> bool:
        """Whether what comes now is seen for the first time: what was in the topic when the shard was opened here has
        been applied. A rebalance that leaves the shard here changes nothing about that."""
        return self.loaded and self.live_from is not None and (self._visible.next_offset or 0) >= self.live_from

    def load(self) -> None:
        """Read rows, graph and words into memory: about 2 s per 100,000 chunks; without a snapshot the graph is built
        later, and queries scan until then. Raises ShardCorrupt if the file is damaged."""
        found = load(self._store, self._settings, self._keywords, self._snapshot_facts())
        with self._publishing:
            if found.rows is not None:
                self._open_index(found)
            self._show(found.progress)
            for change, progress in self._unpublished or ():
                if (progress.next_offset or 0) > (found.progress.next_offset or 0):  # else it was read
                    self._publish(change, progress)
            self._keywords.refresh()  # while nobody else does
            self._unpublished = None
        self._notify()

    def apply(self, events: Sequence[Event]) -> Change:
        """Apply records in offset order; what they say can be found when this returns, by keywords a moment later.

        See Applier.apply. Raises what it raises, StorageFull among it: then nothing was applied.
        """
        change = self._applier.apply(events, self.ready_at)
        crash_point("index.committed")
        progress = replace(self._store.progress)
        with self._publishing:
            if self._unpublished is not None:
                self._unpublished.append((change, progress))
                return change
            try:
                self._publish(change, progress)
            except Exception as error:
                raise ShardCorrupt(
                    f"shard {self.partition}: what was committed up to offset {progress.next_offset} cannot be shown "
                    f"({error!r}); the next start shows it"
                ) from error
        crash_point("index.published")
        self._notify()
        return change

    @property
    def outbox(self) -> Outbox:
        """What it owes the topics."""
        return self._store.outbox

    def whole(self, doc: int) -> WholeDocument | None:
        """See ShardStore.whole."""
        return self._store.whole(doc)

    def absorb(self) -> bool:
        """See HnswIndex.absorb."""
        absorbed = self._index is not None and self._index.absorb()
        if absorbed:
            crash_point("index.absorbed")
        return absorbed

    def make_room(self, rows: int, timeout_s: float) -> bool:
        """See HnswIndex.make_room."""
        return self._index is None or self._index.make_room(rows, timeout_s)

    def refresh_keywords(self) -> bool:
        """Let the keyword index see what was applied; returns whether there was anything."""
        if not self._keywords.refresh():
            return False
        self._notify()
        return True

    def maintain(self) -> None:
        """Measure recall, rebuild the graph, write a snapshot: whichever is due. May take minutes."""
        if self._index is not None:
            self._upkeep.run(self._index, self._snapshot_facts)

    @property
    def rebuild_progress(self) -> float:
        """Of a rebuild of the graph, 0 to 1; 0 while there is none."""
        return self._upkeep.rebuild_progress

    def search(
        self,
        vector: NDArray[np.float32] | None,
        k: int,
        parsed: Filter | None,
        fingerprint: str | None,
        text: str | None = None,
        *,
        probe: bool = False,
    ) -> list[ShardHit]:
        """The best k documents, best first: by meaning if there is a vector, by keywords if there is a text.

        With both (hybrid), the best of either list, at least 2k or 20 of each, for the caller to fuse. vector: shape
        (dim,), unit length. fingerprint: of the model that made it, None to trust the caller. probe: nobody's question,
        by which recall is not measured. Raises BadRequest for a wrong dimension, NotServing for another model's vector
        and while loading.
        """
        if not self.loaded:
            raise NotServing(f"shard {self.partition} is loading")
        index = self._index
        if index is None:
            return []
        if vector is not None:
            self._check_query(vector, fingerprint)
            if not probe:
                self._upkeep.recall.saw(vector)
        depth = k if vector is None or text is None else max(2 * k, _LEAST_DEPTH)
        for _ in range(_RETRIES):
            hits = by_meaning(self._store, [] if vector is None else index.search(vector, depth, parsed))
            if hits is not None:
                words: list[ShardHit] = []
                if text is not None:
                    # more than are needed: some may be gone by now
                    ranked = self._rank_by_words(index, text, depth + _SPARE, parsed)
                    words = by_words(self._store, ranked, parsed)[:depth]
                return merged(hits, words)
            time.sleep(_RETRY_S)
        raise NotServing(f"shard {self.partition} changes faster than it can be read")

    def unknown_fields(self, parsed: Filter) -> set[str]:
        """Fields of the filter that no document of this shard has."""
        return filter_fields(parsed) - self.field_names()

    def field_names(self) -> set[str]:
        """The metadata fields that documents of this shard have, or had until it was last rebuilt."""
        index = self._index
        return set() if index is None else index.generation.rows.columns.names

    def document(self, document_id: str) -> StoredDocument | None:
        """The stored document; a deleted one has `deleted` set; None if it was never seen."""
        return self._store.document(document_id)

    def rows_after(self, after: str | None, limit: int) -> HeldRows:
        """See app.shard.held_rows.rows_after."""
        return rows_after(self._store, after, limit)

    def rows_of(self, ids: Sequence[str]) -> HeldRows:
        """See app.shard.held_rows.rows_of."""
        return rows_of(self._store, ids)

    def whole_row(self, document_id: str) -> HeldRows:
        """See app.shard.held_rows.whole_row."""
        return whole_row(self._store, document_id)

    def recent_queries(self) -> NDArray[np.float32]:
        """Vectors that were asked for lately; shape (n, dim)."""
        return self._upkeep.recall.recent()

    def progress(self, *, by_words: bool = False) -> Progress:
        """How far the shard has come, or its keyword index, which is a moment behind."""
        return self._keywords.view.progress if by_words else self._visible

    def status(self) -> ShardStatus:
        """See ShardStatus."""
        progress = self._visible  # before the index: what it says is in there
        state = "ready" if self.ready else "catching up" if self.loaded else "loading"
        return shard_status(
            self.partition, state, progress, self._index, self._keywords, self._upkeep.status, self._store.disk_bytes()
        )

    def listen(self, notify: Callable[[], object]) -> Callable[[], None]:
        """Have `notify` called after every transaction, in the writer's thread; returns what ends it."""
        with self._listeners_lock:
            self._listeners.append(notify)

        def forget() -> None:
            with self._listeners_lock:
                self._listeners.remove(notify)

        return forget

    def stop(self) -> None:
        """End reading and long work: `load` and `maintain` return soon, searches fail. To be followed by `close`."""
        self._upkeep.stop()
        self._store.end_reads()

    def close(self) -> None:
        """Close the file; no other method may be called after this."""
        self._upkeep.stop()
        self._keywords.close()
        self._store.close()

    def _open_index(self, found: Loaded) -> None:
        assert found.rows is not None
        self._index = HnswIndex(self._make_graph, self._settings.write_buffer_rows, found.rows, found.end, found.graph)
        if found.snapshot is not None:
            self._upkeep.loaded(found.snapshot, self._index)

    def _publish(self, change: Change, progress: Progress) -> None:
        if change.labels and self._index is None:
            rows = Rows.empty(_FIRST_ROWS, self._dim, self._store.dtype)
            self._index = HnswIndex(self._make_graph, self._settings.write_buffer_rows, rows)
        if change.labels or change.removed:
            assert self._index is not None
            vectors = np.stack(change.vectors) if change.vectors else np.empty((0, self._dim), np.float32)
            self._index.publish(change.labels, change.docs, vectors, change.removed, change.metadata)
        self._show(progress, change)

    def _show(self, progress: Progress, change: Change | None = None) -> None:
        self._visible = progress
        sequence = self._index.generation.sequence if self._index is not None else 0
        self._keywords.put(change, KeywordView(progress, sequence))

    def _notify(self) -> None:
        with self._listeners_lock:
            listeners = tuple(self._listeners)
        for notify in listeners:
            notify()

    @property
    def _dim(self) -> int:
        assert self._store.progress.dim is not None
        return self._store.progress.dim

    def _make_graph(self, capacity: int) -> Graph:
        settings = self._settings
        capacity = max(graph_module.FIRST_CAPACITY, capacity)
        return Graph(self._dim, settings.hnsw_m, settings.hnsw_ef_construction, settings.hnsw_ef_search, capacity)

    def _snapshot_facts(self) -> SnapshotFacts:
        # the file's own offset, which may be ahead of the graph: a file that lost what the graph holds must be behind
        progress = self._store.progress
        return SnapshotFacts(
            file_id=self._store.file_id,
            fingerprint=progress.fingerprint or "",
            dim=progress.dim or 0,
            m=self._settings.hnsw_m,
            ef_construction=self._settings.hnsw_ef_construction,
            next_offset=self._store.committed_offset,
            points=0,
            written_ms=0,
        )

    def _check_query(self, vector: NDArray[np.float32], fingerprint: str | None) -> None:
        if len(vector) != self._dim:
            raise BadRequest(f"vector: has {len(vector)} dimensions, the index has {self._dim}")
        own = self._store.progress.fingerprint
        if fingerprint is not None and fingerprint != own:
            raise NotServing(f"shard {self.partition} holds vectors of {own}, the query is of {fingerprint}")

    def _rank_by_words(self, index: HnswIndex, text: str, k: int, parsed: Filter | None) -> list[Ranked]:
        view = self._keywords.view
        allowed = None if parsed is None else _allowed_labels(index.generation, view.sequence, parsed)
        wanted = 2 * k + 8  # documents have several chunks
        while True:
            found = self._keywords.index.search(text, wanted, allowed, view.searcher)
            documents: dict[int, list[tuple[int, float]]] = {}
            for hit in found:
                documents.setdefault(hit.doc, []).append((hit.label, hit.score))
            if len(documents) >= k or len(found) < wanted:
                return [Ranked(doc, *own[0], tuple(own[1:MOST_CHUNKS])) for doc, own in islice(documents.items(), k)]
            wanted *= 4

    def _words_sequence(self) -> int:
        return self._keywords.view.sequence


def _allowed_labels(generation: Generation, sequence: int, parsed: Filter) -> NDArray[np.int64]:
    """Of what was there when the keyword index was refreshed: a document that was updated since must not blink."""
    there = generation.rows.died[: generation.end] > min(sequence, generation.sequence)
    mask = generation.rows.columns.mask(parsed, generation.end)
    labels: NDArray[np.int64] = generation.rows.label[np.flatnonzero(there & mask)]
    return labels
