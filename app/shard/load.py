"""A shard's rows from its file into memory, and its graph from a snapshot if there is one that fits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.settings import Settings
from app.shard.generation import NEVER, Rows
from app.shard.graph import Graph
from app.shard.keyword_feed import KeywordFeed
from app.shard.snapshot import SnapshotFacts, SnapshotUnusable, read_snapshot, set_aside
from app.shard.store import ChunkRow, Progress, ShardStore

log = logging.getLogger("headrace.shard")

_BLOCK_ROWS = 4096
_DELETE_MARK = 1  # hnswlib: in the third byte of a point's links
_MARK_AT = 2


@dataclass(frozen=True, slots=True)
class Loaded:
    """progress: what rows, words and graph stand for. rows: None where there are none. end: how many."""

    progress: Progress
    rows: Rows | None = None
    end: int = 0
    graph: Graph | None = None
    snapshot: SnapshotFacts | None = None


def load(store: ShardStore, settings: Settings, keywords: KeywordFeed, facts_now: SnapshotFacts) -> Loaded:
    """Read everything. facts_now: what a snapshot must agree with. Raises ShardCorrupt."""
    started = time.perf_counter()
    path = store.path.with_suffix(".graph")
    with store.everything() as (progress, last_label, labels, chunks):
        if progress.dim is None:
            if path.exists():
                set_aside(path, "the file has no chunk: the last transactions were lost (a power cut?)")
            return Loaded(progress)
        reader = _Reader(progress.dim, store.dtype)
        snapshot = _read_snapshot(path, facts_now, progress, last_label, labels)
        if snapshot is not None:
            reader.expect(snapshot[1].pop("row_labels"))
        reader.read(chunks, keywords)
    rows, end = reader.rows, reader.end
    graph = None if snapshot is None else _graph(path, snapshot[1], rows, end, reader.known, settings.hnsw_ef_search)
    log.info(
        "%s: %d chunks loaded in %.1f s, %s",
        *(store.path.name, reader.alive, time.perf_counter() - started),
        "without a snapshot: queries scan until the graph is built" if graph is None else f"{graph.living} by snapshot",
    )
    return Loaded(progress, rows, end, graph, snapshot[0] if snapshot is not None and graph is not None else None)


class _Reader:
    """Fills rows. Those that a snapshot knows keep their numbers, by which its graph calls them."""

    def __init__(self, dim: int, dtype: np.dtype[Any]) -> None:
        self.rows = Rows.empty(_BLOCK_ROWS, dim, dtype)
        self.end = self.alive = 0
        self._expected = np.empty(0, np.int64)

    def expect(self, labels: NDArray[np.int64]) -> None:
        """These rows come first, dead until they are read."""
        self._expected, self.end = labels, len(labels)
        self.rows = self.rows.grown(0, self.end)
        self.rows.label[: self.end] = labels
        self.rows.died[: self.end] = 0

    @property
    def known(self) -> int:
        """How many rows were expected."""
        return len(self._expected)

    def read(self, chunks: Iterator[ChunkRow], keywords: KeywordFeed) -> None:
        """Take all chunks, in the order of labels."""
        while block := list(islice(chunks, _BLOCK_ROWS)):
            labels = np.array([row.label for row in block], np.int64)
            at = np.searchsorted(self._expected, labels)
            new = at == len(self._expected)
            at[new] = np.arange(self.end, self.end + int(new.sum()))
            self.rows = rows = self.rows.grown(self.end, self.end + int(new.sum()))
            self.end += int(new.sum())
            rows.label[at] = labels
            rows.doc[at] = [row.doc for row in block]
            rows.died[at] = NEVER
            vectors = np.frombuffer(b"".join(row.vector for row in block), rows.vectors.dtype)
            rows.vectors[at] = vectors.reshape(len(block), -1)
            rows.columns.add(at.tolist(), _metadata(block))
            keywords.load((row.label, row.doc, row.title, row.text) for row in block)
            self.alive += len(block)


def _metadata(block: list[ChunkRow]) -> list[dict[str, Any]]:
    parsed: list[dict[str, Any]] = []
    last: bytes | None = None
    for row in block:
        parsed.append(parsed[-1] if row.metadata is last else orjson.loads(row.metadata))
        last = row.metadata
    return parsed


def _read_snapshot(
    path: Path, facts_now: SnapshotFacts, progress: Progress, last_label: int, labels: NDArray[np.int64]
) -> tuple[SnapshotFacts, dict[str, Any]] | None:
    try:
        facts, state = read_snapshot(path)
        check_facts(facts, facts_now, progress)
        _check_rows(state, last_label, labels)
    except FileNotFoundError:
        return None
    except (SnapshotUnusable, OSError, KeyError, ValueError) as error:
        set_aside(path, str(error))
        return None
    return facts, state


def check_facts(facts: SnapshotFacts, wanted: SnapshotFacts, progress: Progress) -> None:
    """Raises SnapshotUnusable unless it was made from this file, with these parameters, and not from its future."""
    if facts.file_id != wanted.file_id:
        raise SnapshotUnusable("it belongs to another shard file")
    for name in ("fingerprint", "dim", "m", "ef_construction"):
        if getattr(facts, name) != getattr(wanted, name):
            raise SnapshotUnusable(
                f"it was built with {name} {getattr(facts, name)}, now it is {getattr(wanted, name)}"
            )
    if facts.next_offset > (progress.next_offset or 0):
        raise SnapshotUnusable(
            f"it was built up to offset {facts.next_offset}, the file has come to {progress.next_offset}: "
            "the last transactions were lost (a power cut?)"
        )


def _check_rows(state: dict[str, Any], last_label: int, labels: NDArray[np.int64]) -> None:
    """Raises SnapshotUnusable unless its rows are in order, and know each of the file's labels up to their last."""
    rows = state["row_labels"]
    ids = _ids(state)
    if (np.diff(rows) <= 0).any() or (len(ids) and not 0 <= ids.min() <= ids.max() < len(rows)):
        raise SnapshotUnusable("its rows are not in order")
    if len(rows) and rows[-1] > last_label:  # which the file will give to other chunks
        raise SnapshotUnusable(
            f"it knows chunks up to {rows[-1]}, the file has given out {last_label}: the last transactions were lost "
            "(a power cut?)"
        )
    known = labels[labels <= rows[-1]] if len(rows) else labels[:0]
    if not np.isin(known, rows, assume_unique=True).all():
        raise SnapshotUnusable("it lacks chunks that the file has")


def _graph(path: Path, state: dict[str, Any], rows: Rows, end: int, known: int, ef_search: int) -> Graph | None:
    try:
        return make_graph(state, rows, known, ef_search)
    except (SnapshotUnusable, RuntimeError, KeyError, ValueError, IndexError) as error:
        rows.in_graph[:end] = False
        set_aside(path, str(error))
        return None


def make_graph(state: dict[str, Any], rows: Rows, known: int, ef_search: int) -> Graph:
    """The graph of a snapshot, as it is after all that has died since; sets `in_graph`.

    known: rows that the snapshot knows. Raises SnapshotUnusable if a point is not what its row says.
    """
    ids, marked = _ids(state), _marks(state)
    _check_points(state, rows, ids, marked)
    first, width = state["offset_data"], 4 * rows.vectors.shape[1]
    vectors = np.ascontiguousarray(_points(state)[~marked, first : first + width]).view(np.float32)
    graph = Graph.from_state(state, ef_search)
    graph.adopt(ids[~marked], vectors, int(marked.sum()))
    rows.in_graph[ids] = True
    copies = np.flatnonzero((rows.died[:known] == NEVER) & ~rows.in_graph[:known])
    graph.add(rows.vectors[copies].astype(np.float32), copies)
    rows.in_graph[copies] = True
    graph.remove(ids[(rows.died[ids] != NEVER) & ~marked].tolist())
    return graph


def _check_points(state: dict[str, Any], rows: Rows, ids: NDArray[np.int64], marked: NDArray[np.bool_]) -> None:
    points = _points(state)
    first, width = state["offset_data"], 4 * rows.vectors.shape[1]
    there = rows.died[ids] == NEVER
    if (there & marked).any():
        raise SnapshotUnusable("it holds chunks as deleted that the file has")
    for start in range(0, len(points), _BLOCK_ROWS):
        block = np.flatnonzero(there[start : start + _BLOCK_ROWS]) + start
        vectors = np.ascontiguousarray(points[block, first : first + width]).view(np.float32)
        if not np.array_equal(vectors, rows.vectors[ids[block]].astype(np.float32)):
            raise SnapshotUnusable("its vectors are not those of the file")


def _points(state: dict[str, Any]) -> NDArray[np.uint8]:
    """Level 0 as hnswlib lays it out: links, vector, label; shape (points, bytes)."""
    size, count = state["size_data_per_element"], state["cur_element_count"]
    level0: NDArray[np.int8] = state["data_level0"]
    return level0.view(np.uint8)[: count * size].reshape(count, size)


def _ids(state: dict[str, Any]) -> NDArray[np.int64]:
    labels = np.ascontiguousarray(_points(state)[:, state["label_offset"] :][:, :8])
    return labels.view(np.int64)[:, 0] if len(labels) else np.empty(0, np.int64)


def _marks(state: dict[str, Any]) -> NDArray[np.bool_]:
    return (_points(state)[:, _MARK_AT] & _DELETE_MARK).astype(np.bool_)
