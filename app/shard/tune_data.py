"""A shard's chunks and its graph, read beside the index worker that owns them, and other graphs of the same chunks."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.settings import Settings
from app.shard.generation import NEVER, Rows
from app.shard.graph import Graph
from app.shard.index import HnswIndex
from app.shard.load import check_facts, make_graph
from app.shard.memory import available_bytes
from app.shard.snapshot import SnapshotFacts, SnapshotUnusable, read_snapshot
from app.shard.store import DAMAGE, FORMAT, Progress, progress_of
from schemas.errors import NotFound, SettingsError, ShardCorrupt

Tell = Callable[[int, int], object]  # how much is done, of how much

_READ_ROWS = 4096
_BUILD_ROWS = 256  # about 0.1 s, after which Ctrl-C is heard
_POINT_BYTES = 400  # links and tables of a point at M 32, generously
_SPARE_BYTES = 40  # of a point that there is only room for, see Graph.memory_bytes
_FILE = re.compile(r"shard-(\d+)\.sqlite")
_START_AGAIN = "Restart its index worker: it sets the file aside and rebuilds the shard from the vectors topic."


@dataclass(frozen=True, slots=True)
class TunedGraph:
    """A graph of all chunks, searched as a shard searches. build_s: None for the worker's own, from its snapshot."""

    m: int
    ef_construction: int
    index: HnswIndex
    build_s: float | None

    @property
    def graph(self) -> Graph:
        """The graph alone."""
        return self.index.generation.graph

    @property
    def bytes_per_chunk(self) -> float:
        """An estimate; its dead points cost the living ones, room for points to come does not count."""
        spare = self.graph.capacity - self.graph.count
        return (self.graph.memory_bytes - _SPARE_BYTES * spare) / self.graph.living

    @property
    def dead_ratio(self) -> float:
        """Share of its points that are deleted."""
        return self.graph.dead / self.graph.count


@dataclass(frozen=True, slots=True)
class TunedShard:
    """The chunks of one state of a shard file: the rows that have not died.

    live: the graph of the snapshot, with the chunks added that are newer and those marked that are gone; None if there
    is no snapshot that fits, and then `trouble` says why.
    """

    progress: Progress
    rows: Rows
    live: TunedGraph | None
    trouble: str | None

    @property
    def alive(self) -> NDArray[np.int64]:
        """The rows that are chunks, ascending."""
        return np.flatnonzero(self.rows.died == NEVER)

    @property
    def chunks(self) -> int:
        """How many."""
        return len(self.alive)

    @property
    def dim(self) -> int:
        """Of the vectors."""
        return int(self.rows.vectors.shape[1])


def shard_files(settings: Settings) -> dict[int, Path]:
    """The shard files of this replica on this machine, by shard. Raises SettingsError if there are none."""
    folder = settings.data_dir / settings.collection / f"replica-{settings.replica}"
    named = ((_FILE.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    files = {int(match[1]): path for match, path in named if match}
    if not files:
        raise SettingsError(
            f"no shard file in {folder}: run this where an index worker keeps its shards, and say which with "
            "HEADRACE_DATA_DIR, HEADRACE_COLLECTION and HEADRACE_REPLICA"
        )
    return dict(sorted(files.items()))


def choose_shard(files: dict[int, Path], wanted: int | None) -> int:
    """The shard asked for, or the largest. Raises NotFound if it is not here."""
    if wanted is None:
        return max(files, key=lambda shard: _size(files[shard]))
    if wanted not in files:
        raise NotFound(f"shard {wanted} is not here, only {', '.join(map(str, files))}: choose one with --shard")
    return wanted


def read_shard(path: Path, settings: Settings, tell: Tell) -> TunedShard:
    """Read a shard beside its worker; takes no lock and changes nothing.

    tell: called while chunks that are newer than the snapshot are added to its graph. Raises ShardCorrupt for a file
    that is damaged or none of ours, NotFound for an empty one, SettingsError if it cannot be read or memory is short.
    """
    snapshot = _read_snapshot(path.with_suffix(".graph"))  # before the rows: it must not be of their future
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader:
            reader.execute("BEGIN")  # one state of the file for all that follows
            meta = dict(reader.execute("SELECT name, value FROM meta"))
            rows = _read_rows(path, reader, meta, settings)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise SettingsError(f"{path} cannot be read ({error}): run this as the user of its worker") from error
        raise ShardCorrupt(f"{path} is not a shard file ({error}). {_START_AGAIN}") from error
    except sqlite3.DatabaseError as error:
        kind = "is damaged" if error.sqlite_errorcode & 0xFF in DAMAGE else "cannot be read"
        raise ShardCorrupt(f"{path} {kind} ({error}). {_START_AGAIN}") from error
    progress = progress_of(meta)
    try:
        if isinstance(snapshot, str):
            raise SnapshotUnusable(snapshot)
        live = _live_graph(*snapshot, meta["file_id"], progress, rows, tell)
    except (SnapshotUnusable, RuntimeError, LookupError, ValueError) as error:
        return TunedShard(progress, rows, None, f"{type(error).__name__}: {error}" if not str(error) else str(error))
    return TunedShard(progress, live.index.generation.rows, live, None)


def require_memory(shard: TunedShard, graphs: int, settings: Settings) -> None:
    """Raise SettingsError unless so many more graphs fit beside what runs here: the worker must not be killed."""
    _require(shard.chunks * graphs * (4 * shard.dim + _POINT_BYTES), f"{graphs} more graphs", settings)


def build_graph(shard: TunedShard, m: int, ef_construction: int, tell: Tell) -> TunedGraph:
    """Build a graph of all chunks in one thread, which takes 14 to 100 s per 100,000 chunks."""
    graph = Graph(shard.dim, m, ef_construction, ef_construction, shard.chunks)
    started = time.perf_counter()
    _add(graph, shard.rows, shard.alive, tell)
    build_s = time.perf_counter() - started
    return TunedGraph(m, ef_construction, _searchable(graph, shard.rows), build_s)


def _size(path: Path) -> int:
    """Of the file and of what was not moved into it from its log yet, which may be all."""
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


def _read_snapshot(path: Path) -> tuple[SnapshotFacts, dict[str, Any]] | str:
    """What is in it, or why nothing is."""
    try:
        return read_snapshot(path)
    except FileNotFoundError:
        return "the worker has not written a snapshot of its graph yet"
    except (SnapshotUnusable, OSError) as error:
        return str(error)


def _read_rows(path: Path, reader: sqlite3.Connection, meta: dict[str, Any], settings: Settings) -> Rows:
    if meta.get("format") != FORMAT:
        raise ShardCorrupt(f"{path} has format {meta.get('format')}, this program reads {FORMAT}. {_START_AGAIN}")
    (count,) = reader.execute("SELECT count(*) FROM chunks").fetchone()
    if not count:
        raise NotFound(f"{path} has no chunks yet: publish documents first, or choose another shard with --shard")
    dim, dtype = meta["dim"], np.dtype(meta["dtype"])
    _require(count * (2 * 4 * dim + 2 * _POINT_BYTES + 2 * dtype.itemsize * dim), "the shard and its graph", settings)
    rows, end = Rows.empty(count, dim, dtype), 0
    cursor = reader.execute("SELECT label, doc, vector FROM chunks ORDER BY label")
    while block := cursor.fetchmany(_READ_ROWS):
        labels, docs, vectors = zip(*block, strict=True)
        new = slice(end, end + len(block))
        rows.label[new], rows.doc[new] = labels, docs
        try:
            rows.vectors[new] = np.frombuffer(b"".join(vectors), dtype).reshape(len(block), dim)
        except ValueError as error:
            raise ShardCorrupt(f"{path} has vectors of other lengths than {dim}. {_START_AGAIN}") from error
        end = new.stop
    return rows


def _live_graph(
    facts: SnapshotFacts, state: dict[str, Any], file_id: str, progress: Progress, read: Rows, tell: Tell
) -> TunedGraph:
    """The worker's graph as it is when it has caught up. Raises SnapshotUnusable."""
    # whatever M it was built with is what serves
    wanted = replace(facts, file_id=file_id, fingerprint=progress.fingerprint or "", dim=progress.dim or 0)
    check_facts(facts, wanted, progress)
    if "row_labels" not in state:
        raise SnapshotUnusable("it is of an older version")
    labels = state.pop("row_labels")
    rows = _numbered(read, labels)
    graph = make_graph(state, rows, len(labels), facts.ef_construction)
    _add(graph, rows, np.flatnonzero(~rows.in_graph & (rows.died == NEVER)), tell)
    return TunedGraph(facts.m, facts.ef_construction, _searchable(graph, rows), None)


def _numbered(read: Rows, expected: NDArray[np.int64]) -> Rows:
    """The rows with the numbers by which a snapshot's graph calls them; those that are gone since are dead rows."""
    at = np.searchsorted(expected, read.label)
    new = at == len(expected)
    at[new] = np.arange(len(expected), len(expected) + int(new.sum()))
    rows = Rows.empty(len(expected) + int(new.sum()), read.vectors.shape[1], read.vectors.dtype)
    rows.label[: len(expected)] = expected
    rows.died[:] = 0
    rows.died[at] = NEVER
    rows.label[at], rows.doc[at], rows.vectors[at] = read.label, read.doc, read.vectors
    return rows


def _add(graph: Graph, rows: Rows, chosen: NDArray[np.int64], tell: Tell) -> None:
    for at in range(0, len(chosen), _BUILD_ROWS):
        tell(at, len(chosen))
        block = chosen[at : at + _BUILD_ROWS]
        graph.add(rows.vectors[block].astype(np.float32), block)


def _searchable(graph: Graph, rows: Rows) -> HnswIndex:
    own = replace(rows, in_graph=np.ones(rows.capacity, np.bool_))
    return HnswIndex(lambda _: graph, 1, own, own.capacity, graph)


def _require(needed_bytes: int, what: str, settings: Settings) -> None:
    left = available_bytes()
    if left is not None and left - needed_bytes < settings.memory_reserve_mb * 2**20:
        raise SettingsError(
            f"{what} need {needed_bytes >> 20:,} MiB of memory, {left >> 20:,} are available and "
            f"HEADRACE_MEMORY_RESERVE_MB={settings.memory_reserve_mb} of them must stay free: ask for fewer graphs, "
            "choose a smaller shard, or copy the shard's files to another machine"
        )


def wanted_graphs(present: tuple[int, int], m: Sequence[int], ef_construction: Sequence[int]) -> list[tuple[int, int]]:
    """M and ef_construction of every graph to measure: the present one first, then all combinations."""
    return list(dict.fromkeys([present, *((a, b) for a in m or present[:1] for b in ef_construction or present[1:])]))
