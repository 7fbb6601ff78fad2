"""What searching the same vectors costs with nothing around it: bare hnswlib, and an exact scan with numpy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from app.settings import Settings
from bench.meters import quantiles

K = 10


def stored_vectors(data_dir: Path) -> NDArray[np.float32]:
    """The vectors of all shards, from their files; shape (chunks, dim)."""
    blobs: list[bytes] = []
    for file in sorted(data_dir.rglob("shard-*.sqlite")):
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        blobs += [row[0] for row in connection.execute("SELECT vector FROM chunks")]
        connection.close()
    halves = np.frombuffer(b"".join(blobs), np.float16).reshape(len(blobs), -1)
    return np.ascontiguousarray(halves, np.float32)


def floor(vectors: NDArray[np.float32], queries: NDArray[np.float32], settings: Settings) -> dict[str, Any]:
    """Milliseconds of each query alone, one thread: all vectors in one graph with the product's HNSW parameters."""
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.init_index(len(vectors), M=settings.hnsw_m, ef_construction=settings.hnsw_ef_construction)
    graph.add_items(vectors, num_threads=2)
    graph.set_ef(settings.hnsw_ef_search)

    def scan(query: NDArray[np.float32]) -> object:
        scores = vectors @ query
        return np.argpartition(scores, len(scores) - K)[-K:]

    return {
        "hnswlib knn_query": _timed(lambda query: graph.knn_query(query, k=K, num_threads=1), queries),
        "exact scan with numpy": _timed(scan, queries),
    }


def _timed(search: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]) -> dict[str, float]:
    took_ms = []
    for query in queries:
        began = time.perf_counter()
        search(query)
        took_ms.append((time.perf_counter() - began) * 1000)
    return quantiles(took_ms)
