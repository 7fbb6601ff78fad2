"""One HNSW graph behind slices of exclusive time: hnswlib promises nothing for a query beside a change."""

from __future__ import annotations

import threading

import hnswlib
import numpy as np
from numpy.typing import NDArray

FIRST_CAPACITY = 16_384
_EMPTY = (np.empty(0, np.int64), np.empty(0, np.float32))


class Graph:
    """Maximum inner product over unit vectors. Every method but `lock` needs the lock to be held.

    M, ef_construction, ef_search: see Malkov and Yashunin, arXiv:1603.09320.
    """

    def __init__(self, dim: int, m: int, ef_construction: int, ef_search: int) -> None:
        self.lock = threading.Lock()
        self._dim = dim
        self._ef_search = ef_search
        self._index = hnswlib.Index(space="ip", dim=dim)
        # pages are touched only as points are added
        self._index.init_index(FIRST_CAPACITY, ef_construction=ef_construction, M=m)
        self._index.set_num_threads(1)
        self._capacity = FIRST_CAPACITY
        self.count = 0
        self.dead = 0

    @property
    def living(self) -> int:
        """Points that a query may return."""
        return self.count - self.dead

    def add(self, vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Add new points: vectors of shape (n, dim), labels never used before."""
        if not len(labels):
            return  # hnswlib refuses none
        if self.count + len(labels) > self._capacity:
            self._capacity = max(self._capacity * 2, self.count + len(labels))
            self._index.resize_index(self._capacity)
        self._index.add_items(vectors, labels, num_threads=1)
        self.count += len(labels)

    def remove(self, labels: list[int]) -> None:
        """Mark points as deleted, each once in its life."""
        for label in labels:
            self._index.mark_deleted(label)
        self.dead += len(labels)

    def search(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Up to k labels and their inner products, best first. Fewer if points cannot be reached."""
        k = min(k, self.living)
        while k > 0:
            self._index.set_ef(max(self._ef_search, k))
            try:
                labels, distances = self._index.knn_query(query, k=k, num_threads=1)
            except RuntimeError:
                k //= 2  # hnswlib gives no partial result when it reaches fewer than k living points
            else:
                return labels[0].astype(np.int64), 1.0 - distances[0]
        return _EMPTY
