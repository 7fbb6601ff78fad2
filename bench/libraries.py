"""`make bench-libraries`: HNSW libraries bare and side by side, and what the structure around one of them costs.

Each part runs in a process of its own (`--part`), one after the other, on the vectors of bench/vectors.py.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import hnswlib
import numpy as np
import orjson
from numpy.typing import NDArray

from app.local.console import Console
from app.local.process import tied
from bench.meters import quantiles
from bench.report import Report, Table
from bench.vectors import MOST_COUNT, bench_vectors
from schemas.errors import HeadraceError, ServiceMissing

K = 10
M, EF_CONSTRUCTION = 16, 100
USEARCH_EXPANSION_ADD = 128  # usearch's own default
EFS = (16, 32, 48, 64, 96, 128, 192, 256, 384)
SEGMENT_EFS = (10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
RECALLS = (0.95, 0.98, 0.99)
BATCHES = (1, 8, 64)
SLICES = (1, 2, 4, 8, 32)
SEGMENTS = (1, 4, 8, 16)
SEALED_ROWS, FAN_IN = 4_096, 4
RESIZED_FROM = (16_384, 65_536, 131_072, 262_144, 524_288)

_MOST_ROWS = 2_000  # timed for one size of batch
_LAST_SHARE = 0.15  # of the rows: they come in batches, the others at once
_MOST_MERGED_ROWS = 65_536
_ENOUGH_RECALL = 0.993  # segments are not searched with a higher ef than gives this
_EXACT_ROWS = 16_384  # of vectors that are scored at once
_SAME_SCORE = 1e-6  # the same text in capitals has the same vector: either one is right
_TRIES = 3
_WITHIN_S = 3_600

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Search = Callable[[Vectors, int], Ids]
Facts = dict[str, Any]


class Graph(Protocol):
    """One library's index over inner products; ids count the rows in the order of their arrival."""

    def add(self, vectors: Vectors, threads: int) -> None:
        """Add rows of shape (n, dim) in one call of the library."""

    def search(self, query: Vectors, ef: int) -> Ids:
        """The K best rows for one vector, on one thread."""

    def save(self, path: str) -> None:
        """Write a file."""

    def load(self, path: str) -> None:
        """Become what was saved."""


class HnswlibGraph:
    """hnswlib; as many threads as asked for only from 4 rows a thread on (its add_items has it so)."""

    def __init__(self, dim: int, capacity: int) -> None:
        self.index = hnswlib.Index(space="ip", dim=dim)
        self.index.init_index(capacity, M=M, ef_construction=EF_CONSTRUCTION)

    def add(self, vectors: Vectors, threads: int) -> None:
        self.index.add_items(vectors, num_threads=threads)

    def search(self, query: Vectors, ef: int) -> Ids:
        return self.scored(query, ef)[0]

    def scored(self, query: Vectors, ef: int) -> tuple[Ids, Vectors]:
        """Ids and distances, nearest first."""
        self.index.set_ef(ef)
        ids, distances = self.index.knn_query(query, k=K, num_threads=1)
        return ids[0].astype(np.int64), distances[0]

    def save(self, path: str) -> None:
        self.index.save_index(path)

    def load(self, path: str) -> None:
        self.index = hnswlib.Index(space="ip", dim=self.index.dim)
        self.index.load_index(path)


class UsearchGraph:
    """usearch, which keeps the vectors as `dtype`."""

    def __init__(self, dim: int, dtype: str) -> None:
        from usearch.index import Index

        self._index = Index(
            ndim=dim, metric="ip", dtype=dtype, connectivity=M, expansion_add=USEARCH_EXPANSION_ADD, expansion_search=64
        )

    def add(self, vectors: Vectors, threads: int) -> None:
        first = len(self._index)
        self._index.add(np.arange(first, first + len(vectors)), vectors, threads=threads)

    def search(self, query: Vectors, ef: int) -> Ids:
        self._index.expansion_search = ef
        return np.asarray(self._index.search(query, K, threads=1).keys, np.int64)

    def save(self, path: str) -> None:
        self._index.save(path)

    def load(self, path: str) -> None:
        self._index.load(path)


class FaissGraph:
    """faiss IndexHNSWFlat."""

    def __init__(self, dim: int) -> None:
        import faiss

        self._faiss = faiss
        self._index = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION

    def add(self, vectors: Vectors, threads: int) -> None:
        self._faiss.omp_set_num_threads(threads)
        self._index.add(vectors)

    def search(self, query: Vectors, ef: int) -> Ids:
        self._faiss.omp_set_num_threads(1)
        self._index.hnsw.efSearch = ef
        return self._index.search(query[None], K)[1][0]

    def save(self, path: str) -> None:
        self._faiss.write_index(self._index, path)

    def load(self, path: str) -> None:
        self._index = self._faiss.read_index(path)


LIBRARIES: dict[str, Callable[[int, int], Graph]] = {
    "hnswlib": HnswlibGraph,
    "faiss": lambda dim, _: FaissGraph(dim),
    "usearch f32": lambda dim, _: UsearchGraph(dim, "f32"),
    "usearch f16": lambda dim, _: UsearchGraph(dim, "f16"),
}


# --- what the parts share


@dataclass(frozen=True, slots=True)
class Data:
    """vectors: shape (chunks, dim). queries: shape (n, dim). tenth: score of the K-th best row for each query."""

    vectors: Vectors
    queries: Vectors
    tenth: Vectors

    @classmethod
    def read(cls, chunks: int, queries: int, console: Console) -> Data:
        """What is missing is embedded and searched exactly first. Raises HeadraceError."""
        made = bench_vectors(chunks, console)
        vectors = made.vectors.astype(np.float32)
        tenth = _tenth(made.folder / f"tenth-of-{chunks}.npy", vectors, made.queries)
        return cls(vectors, made.queries[:queries], tenth[:queries])

    def curve(self, search: Search, efs: Sequence[int], enough: float = 1.0) -> list[Facts]:
        """Recall and milliseconds of each query alone for each ef, until a recall of `enough`."""
        points = []
        for ef in efs:
            took_ms, hits = [], 0
            for query, tenth in zip(self.queries, self.tenth, strict=True):
                began = time.perf_counter()
                ids = search(query, ef)
                took_ms.append((time.perf_counter() - began) * 1e3)
                hits += int((self.vectors[ids] @ query >= tenth - _SAME_SCORE).sum())
            spread = quantiles(took_ms)
            recall = hits / (K * len(self.queries))
            points.append({"ef": ef, "recall": recall, "p50_ms": spread["p50"], "p99_ms": spread["p99"]})
            if recall >= enough:
                break
        return points


def _tenth(file: Path, vectors: Vectors, queries: Vectors) -> Vectors:
    """The exact K-th best score of every query, kept beside the vectors."""
    if not file.exists():
        best = np.full((len(queries), K), -np.inf, np.float32)
        for start in range(0, len(vectors), _EXACT_ROWS):
            scores = queries @ vectors[start : start + _EXACT_ROWS].T
            best = np.partition(np.concatenate((best, scores), axis=1), -K, axis=1)[:, -K:]
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as written:
            np.save(written, best.min(axis=1))
        part.replace(file)
    return np.load(file)


def _at_recall(curve: Sequence[Facts], recall: float) -> Facts | None:
    """Ef and times where the curve crosses a recall, linear between its points; None where it does not get there.

    A curve that begins above is met at its lowest ef.
    """
    above = next((at for at, point in enumerate(curve) if point["recall"] >= recall), None)
    if above is None:
        return None
    high, low = curve[above], curve[max(above - 1, 0)]
    share = 1.0 if low is high else (recall - low["recall"]) / (high["recall"] - low["recall"])
    return {key: low[key] + share * (high[key] - low[key]) for key in ("ef", "p50_ms", "p99_ms")}


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _slices_ms(graph: Graph, vectors: Vectors, rows: int, threads: int) -> list[float]:
    """Milliseconds of each call, so many rows a call."""
    return [
        _seconds(lambda at=at: graph.add(vectors[at : at + rows], threads)) * 1e3 for at in range(0, len(vectors), rows)
    ]


def _rss_bytes() -> int:
    """Of this process, with what the allocator holds in reserve given back. Linux with glibc only."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the parts, each in its own process


def library(name: str, data: Data) -> Facts:
    """Builds, inserts, searches and files of one library."""
    chunks, dim = data.vectors.shape
    LIBRARIES[name](dim, K).add(data.vectors[:K], 2)  # its code and its threads are not counted
    before_bytes = _rss_bytes()
    graph = LIBRARIES[name](dim, chunks)
    bulk = int(chunks * (1 - _LAST_SHARE))
    facts: Facts = {"build_rows_per_s": bulk / _seconds(lambda: graph.add(data.vectors[:bulk], 2))}
    rows = min(_MOST_ROWS, (chunks - bulk) // (2 * len(BATCHES)))
    facts["insert_rows_per_s"] = inserts = {}
    for threads in (1, 2):
        for batch in BATCHES:
            part = data.vectors[bulk : bulk + rows]
            inserts[f"{batch} a call, {_threads(threads)}"] = rows / sum(_slices_ms(graph, part, batch, threads)) * 1e3
            bulk += rows
    graph.add(data.vectors[bulk:], 2)
    facts["rss_bytes_per_chunk"] = (_rss_bytes() - before_bytes) / chunks
    facts["curve"] = data.curve(graph.search, EFS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "index"
        facts["save_s"] = _seconds(lambda: graph.save(str(file)))
        facts["load_s"] = _seconds(lambda: graph.load(str(file)))
        facts["file_bytes_per_chunk"] = file.stat().st_size / chunks
    quarter = data.vectors[: chunks // 4]
    facts["quarter_rows_per_s"] = {
        str(threads): len(quarter)
        / _seconds(lambda threads=threads: LIBRARIES[name](dim, chunks).add(quarter, threads))
        for threads in (1, 2)
    }
    return facts


def segments(data: Data) -> Facts:
    """The same rows as several hnswlib graphs, searched one after the other."""
    return {
        str(count): data.curve(_Segments(data.vectors, count).search, SEGMENT_EFS, _ENOUGH_RECALL) for count in SEGMENTS
    }


class _Segments:
    def __init__(self, vectors: Vectors, count: int) -> None:
        self._graphs: list[tuple[int, HnswlibGraph]] = []
        first = 0
        for part in np.array_split(vectors, count):
            graph = HnswlibGraph(vectors.shape[1], len(part))
            graph.add(part, 2)
            self._graphs.append((first, graph))
            first += len(part)

    def search(self, query: Vectors, ef: int) -> Ids:
        found = [(first, graph.scored(query, ef)) for first, graph in self._graphs]
        ids = np.concatenate([ids + first for first, (ids, _) in found])
        distances = np.concatenate([distances for _, (_, distances) in found])
        return ids[np.argsort(distances)[:K]]


def merges(data: Data) -> Facts:
    """Sealed segments merged by rebuilding, against one graph that takes the same rows; one thread."""
    rows, levels = SEALED_ROWS, 0
    while rows * FAN_IN <= min(len(data.vectors), _MOST_MERGED_ROWS):
        rows, levels = rows * FAN_IN, levels + 1
    vectors, dim = data.vectors[:rows], data.vectors.shape[1]
    builds = [
        (start, SEALED_ROWS * FAN_IN**level)
        for level in range(levels + 1)
        for start in range(0, rows, SEALED_ROWS * FAN_IN**level)
    ]
    tiered_s = sum(
        _seconds(lambda start=start, size=size: HnswlibGraph(dim, size).add(vectors[start : start + size], 1))
        for start, size in builds
    )
    one = HnswlibGraph(dim, rows)
    one_s = sum(_slices_ms(one, vectors, 8, 1)) / 1e3
    return {
        "rows": rows,
        "tiered": {"insertions_per_row": sum(size for _, size in builds) / rows, "rows_per_s": rows / tiered_s},
        "one_graph": {"insertions_per_row": 1.0, "rows_per_s": rows / one_s},
    }


def holds(data: Data) -> Facts:
    """How long the calls take for which a lock, or the GIL, keeps everybody else out."""
    chunks, dim = data.vectors.shape
    graph = HnswlibGraph(dim, chunks)
    rows = min(_MOST_ROWS, int(chunks * _LAST_SHARE) // len(SLICES))
    at = chunks - rows * len(SLICES)
    graph.add(data.vectors[:at], 2)
    slices = {}
    for count in SLICES:
        took_ms = _slices_ms(graph, data.vectors[at : at + rows], count, 1)
        slices[str(count)] = {"rows_per_s": rows / sum(took_ms) * 1e3, **quantiles(took_ms)}
        at += rows
    return {"slices": slices, "copies": _copies(graph), "resize": _resizes(data.vectors)}


def _copies(graph: HnswlibGraph) -> dict[str, Facts]:
    state: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "index")
        calls: dict[str, Callable[[], object]] = {
            "index.__getstate__()": lambda: state.append(graph.index.__getstate__()[0]),
            "hnswlib.Index(params=state)": lambda: hnswlib.Index(params=state[0]),
            "save_index": lambda: graph.save(file),
            "load_index": lambda: graph.load(file),
        }
        return {name: _stood_still(call) for name, call in calls.items()}


def _resizes(vectors: Vectors) -> dict[str, Facts]:
    """`resize_index` from n to 2n. The graphs are one small graph many times over: only their size matters here."""
    small = HnswlibGraph(vectors.shape[1], RESIZED_FROM[0])
    rows = min(RESIZED_FROM[0], len(vectors))
    small.add(vectors[:rows], 2)
    (state,) = small.index.__getstate__()
    found: dict[str, Facts] = {}
    for times in (count // RESIZED_FROM[0] for count in RESIZED_FROM):
        tries = []
        for _ in range(_TRIES):
            index = hnswlib.Index(params=_tiled(state, rows, times))
            tries.append(_stood_still(lambda index=index: index.resize_index(2 * index.max_elements)))
        found[str(rows * times)] = max(tries, key=lambda facts: facts["ms"])
    return found


def _tiled(state: dict[str, Any], rows: int, times: int) -> dict[str, Any]:
    """A graph's state repeated; the first copy is the one that links lead to."""
    tiled = {key: np.tile(value, times) if isinstance(value, np.ndarray) else value for key, value in state.items()}
    shift = np.repeat(np.arange(times) * rows, rows)
    for key in ("label_lookup_external", "label_lookup_internal"):
        tiled[key] = tiled[key] + shift.astype(tiled[key].dtype)
    return tiled | {"cur_element_count": rows * times, "max_elements": rows * times}


def _stood_still(call: Callable[[], object]) -> Facts:
    """ms: of the call. others_ms: the longest time another Python thread could not run meanwhile."""
    longest_s, done = 0.0, threading.Event()

    def tick() -> None:
        nonlocal longest_s
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            longest_s, last = max(longest_s, now - last), now

    ticker = threading.Thread(target=tick)
    ticker.start()
    took_s = _seconds(call)
    done.set()
    ticker.join()
    return {"ms": took_s * 1e3, "others_ms": longest_s * 1e3}


PARTS: dict[str, Callable[[Data], Facts]] = {
    **{name: lambda data, name=name: library(name, data) for name in LIBRARIES},
    "segments": segments,
    "merges": merges,
    "holds": holds,
}


# --- the report


def _tables(figures: dict[str, Facts], chunks: int) -> list[Table]:
    found = {name: figures[name] for name in LIBRARIES}
    curves = {name: facts["curve"] for name, facts in found.items()}
    split = {f"{count} graphs" if count != "1" else "1 graph": curve for count, curve in figures["segments"].items()}
    return [
        Table(
            f"Rows per second into {chunks:,} chunks",
            (
                "library",
                f"first {chunks // 4:,} in one call, 1 thread",
                f"first {chunks // 4:,}, 2 threads",
                f"first {int(chunks * (1 - _LAST_SHARE)):,}, 2 threads",
                *next(iter(found.values()))["insert_rows_per_s"],
            ),
            [
                (
                    name,
                    *facts["quarter_rows_per_s"].values(),
                    facts["build_rows_per_s"],
                    *facts["insert_rows_per_s"].values(),
                )
                for name, facts in found.items()
            ],
        ),
        Table(
            "Bytes and files",
            ("library", "RSS bytes per chunk", "file bytes per chunk", "save s", "load s"),
            [
                (name, *(facts[key] for key in ("rss_bytes_per_chunk", "file_bytes_per_chunk", "save_s", "load_s")))
                for name, facts in found.items()
            ],
        ),
        _same_recall("At the same recall@10: one query at a time, one thread", "library", curves),
        Table(
            "Recall@10 and p50 / p99 ms by ef",
            ("ef", *curves),
            [(str(ef), *(_point(curve[at]) for curve in curves.values())) for at, ef in enumerate(EFS)],
        ),
        _same_recall(f"The same {chunks:,} chunks in several hnswlib graphs, one after the other", "graphs", split),
        *_structure_tables(figures, chunks),
    ]


def _structure_tables(figures: dict[str, Facts], chunks: int) -> list[Table]:
    merged, held = figures["merges"], figures["holds"]
    return [
        Table(
            f"{merged['rows']:,} rows into hnswlib, one thread",
            ("structure", "insertions per row", "rows/s"),
            [
                (f"segments of {SEALED_ROWS:,}, merged {FAN_IN} at a time by rebuilding", *merged["tiered"].values()),
                ("one graph, 8 rows a call", *merged["one_graph"].values()),
            ],
        ),
        Table(
            f"add_items with few rows a call, hnswlib at {chunks:,} chunks, one thread",
            ("rows a call", "rows/s", "p50 ms of a call", "p99 ms"),
            [(count, facts["rows_per_s"], facts["p50"], facts["p99"]) for count, facts in held["slices"].items()],
        ),
        Table(
            f"Copies of an hnswlib graph of {chunks:,} chunks",
            ("call", "ms", "ms that another thread stood still"),
            [(f"`{name}`", facts["ms"], facts["others_ms"]) for name, facts in held["copies"].items()],
        ),
        Table(
            f"resize_index of hnswlib from n to 2n, the longest of {_TRIES}",
            ("n", "ms", "ms that another thread stood still"),
            [(int(count), facts["ms"], facts["others_ms"]) for count, facts in held["resize"].items()],
        ),
    ]


def _same_recall(title: str, what: str, curves: dict[str, Sequence[Facts]]) -> Table:
    def cell(curve: Sequence[Facts], recall: float) -> str:
        if (at := _at_recall(curve, recall)) is None:
            return "not reached"
        first = "≤ " if curve[0]["recall"] >= recall else ""
        return f"{first}{at['ef']:.0f}: {at['p50_ms']:.3f} / {at['p99_ms']:.3f}"

    columns = (what, *(f"recall {recall}: ef: p50 / p99 ms" for recall in RECALLS))
    return Table(
        title, columns, [(name, *(cell(curve, recall) for recall in RECALLS)) for name, curve in curves.items()]
    )


def _point(point: Facts) -> str:
    return f"{point['recall']:.4f}: {point['p50_ms']:.3f} / {point['p99_ms']:.3f}"


def _notes(data: Data) -> list[str]:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("hnswlib", "usearch", "faiss-cpu"))
    batched = min(_MOST_ROWS, int(len(data.vectors) * _LAST_SHARE) // (2 * len(BATCHES)))
    return [
        f"{versions}. M {M}; ef_construction {EF_CONSTRUCTION}, usearch {USEARCH_EXPANSION_ADD} (its default).",
        f"{len(data.queries):,} queries that are not in the index; pieces of 4 to 8 words of English.",
        "A row that scores as the exact tenth counts as found, whichever of equal texts it is.",
        "Ef, p50 and p99 at a recall are linear between the two ef around it; `≤`: the lowest ef has more recall.",
        f"Batches: {batched:,} rows of each kind, among the last {_LAST_SHARE:.0%} of the rows.",
        "hnswlib takes one thread for up to 4 rows a thread, whatever it is asked for.",
        "RSS: growth of the library's own process over the build; the source vectors are not in it.",
        "Another thread: one that sleeps 0.5 ms at a time; where it stood still for the whole call, the GIL was held.",
    ]


@click.command()
@click.option(
    "--chunks", default=100_000, show_default=True, type=click.IntRange(2_000, MOST_COUNT), help="In an index."
)
@click.option("--queries", default=1000, show_default=True, type=click.IntRange(100, 2000), help="For each ef.")
@click.option("--name", default="libraries", show_default=True, help="Of the files in bench/results.")
@click.option("--part", type=click.Choice(list(PARTS)), hidden=True)
def libraries(chunks: int, queries: int, name: str, part: str | None) -> None:
    """Measure HNSW libraries with nothing around them."""
    try:
        if part:
            data = Data.read(chunks, queries, Console(out=sys.stderr))
            print(orjson.dumps(PARTS[part](data)).decode())
            return
        _measure(chunks, queries, name)
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


def _measure(chunks: int, queries: int, name: str) -> None:
    console = Console()
    data = Data.read(chunks, queries, console)
    report = Report(name, "HNSW libraries bare, and structures around one", "make bench-libraries", sys.argv[1:])
    for part in PARTS:
        console.step(part)
        report.figures[part] = _in_process(part, chunks, queries)
    report.sizes = {"chunks": chunks, "queries": queries, "dim": data.vectors.shape[1]}
    report.tables = _tables(report.figures, chunks)
    report.notes = _notes(data)
    path = report.write()
    console.step(f"written to {path}")
    console.say(path.read_text(encoding="utf-8"))


def _in_process(part: str, chunks: int, queries: int) -> Facts:
    command = [
        sys.executable,
        "-m",
        "bench.libraries",
        "--chunks",
        str(chunks),
        "--queries",
        str(queries),
        "--part",
        part,
    ]
    done = subprocess.run(
        tied(command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_WITHIN_S, check=False
    )
    if done.returncode != 0:
        raise ServiceMissing(f"the part {part!r} did not run; the lines above may say why")
    return orjson.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    libraries()
