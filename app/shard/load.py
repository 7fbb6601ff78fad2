"""A shard's rows from its file into memory, and its graph from a snapshot if there is one that fits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.settings import Settings
from app.shard.generation import Rows
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


def load(
    store: ShardStore, settings: Settings, keywords: KeywordFeed, facts_now: Callable[[], SnapshotFacts]
) -> Loaded:
    """Read everything. facts_now: what a snapshot must agree with. Raises ShardCorrupt."""
    started = time.perf_counter()
    with store.everything() as (progress, chunks):
        if progress.dim is None:
            return Loaded(progress)
        rows, end = _read_rows(chunks, progress.dim, store.dtype, keywords)
    found = _read_graph(store, settings, facts_now(), progress, rows, end)
    log.info(
        "%s: %d chunks loaded in %.1f s, %s",
        store.path.name,
        end,
        time.perf_counter() - started,
        "without a snapshot: queries scan until the graph is built"
        if found is None
        else f"{int(rows.in_graph[:end].sum())} of them in the graph",
    )
    graph, facts = found or (None, None)
    return Loaded(progress, rows, end, graph, facts)


def _read_rows(chunks: Iterator[ChunkRow], dim: int, dtype: np.dtype[Any], keywords: KeywordFeed) -> tuple[Rows, int]:
    rows, end = Rows.empty(_BLOCK_ROWS, dim, dtype), 0
    while block := list(islice(chunks, _BLOCK_ROWS)):
        new = slice(end, end + len(block))
        rows = rows.grown(end, new.stop)
        rows.label[new] = [row.label for row in block]
        rows.doc[new] = [row.doc for row in block]
        rows.vectors[new] = np.frombuffer(b"".join(row.vector for row in block), dtype).reshape(len(block), dim)
        rows.columns.add(range(end, new.stop), _metadata(block))
        keywords.load((row.label, row.doc, row.title, row.text) for row in block)
        end = new.stop
    return rows, end


def _metadata(block: list[ChunkRow]) -> list[dict[str, Any]]:
    parsed: list[dict[str, Any]] = []
    last: bytes | None = None
    for row in block:
        parsed.append(parsed[-1] if row.metadata is last else orjson.loads(row.metadata))
        last = row.metadata
    return parsed


def _read_graph(
    store: ShardStore, settings: Settings, wanted: SnapshotFacts, progress: Progress, rows: Rows, end: int
) -> tuple[Graph, SnapshotFacts] | None:
    path = store.path.with_suffix(".graph")
    try:
        facts, state = read_snapshot(path)
        _check(facts, wanted, progress)
        gone = _check_points(state, rows, end)
        graph = Graph.from_state(state, settings.hnsw_ef_search)
    except FileNotFoundError:
        return None
    except (SnapshotUnusable, OSError, RuntimeError, KeyError, ValueError) as error:
        rows.in_graph[:end] = False
        set_aside(path, str(error))
        return None
    graph.dead = int(_marks(state).sum())
    graph.remove(gone)
    return graph, facts


def _check(facts: SnapshotFacts, wanted: SnapshotFacts, progress: Progress) -> None:
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


def _check_points(state: dict[str, Any], rows: Rows, end: int) -> list[int]:
    """Compare every point with its row and set `in_graph`; returns the labels whose rows are gone.

    Raises SnapshotUnusable if a point's vector is not that of its row.
    """
    points = _points(state)
    at, width = state["offset_data"], 4 * rows.vectors.shape[1]
    labels = np.ascontiguousarray(points[:, state["label_offset"] :][:, :8]).view(np.uint64)[:, 0].astype(np.int64)
    found = np.searchsorted(rows.label[:end], labels)
    there = found < end
    there[there] = rows.label[found[there]] == labels[there]
    marked = _marks(state)
    if (there & marked).any():
        raise SnapshotUnusable("it holds chunks as deleted that the file has")
    for start in range(0, len(points), _BLOCK_ROWS):
        block = np.flatnonzero(there[start : start + _BLOCK_ROWS]) + start
        vectors = np.ascontiguousarray(points[block, at : at + width]).view(np.float32)
        if not np.array_equal(vectors, rows.vectors[found[block]].astype(np.float32)):
            raise SnapshotUnusable("its vectors are not those of the file")
    rows.in_graph[found[there]] = True
    gone: list[int] = labels[~there & ~marked].tolist()
    return gone


def _points(state: dict[str, Any]) -> NDArray[np.uint8]:
    """Level 0 as hnswlib lays it out: links, vector, label; shape (points, bytes)."""
    size, count = state["size_data_per_element"], state["cur_element_count"]
    level0: NDArray[np.int8] = state["data_level0"]
    return level0.view(np.uint8)[: count * size].reshape(count, size)


def _marks(state: dict[str, Any]) -> NDArray[np.bool_]:
    return (_points(state)[:, _MARK_AT] & _DELETE_MARK).astype(np.bool_)
