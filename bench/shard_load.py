"""A shard as the index worker runs it, without Kafka: records in, threads in the background, queries beside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.event import Event
from app.settings import Settings, load_settings
from app.shard.shard import Shard
from app.shard.shards import Shards
from consumers.index.worker import MOST_RECORDS
from schemas.headers import RecordHeaders
from schemas.vector_record import VectorRecord, encode_vector_record

_EPOCH = "bench"
_SETTLED_DEAD_RATIO = 0.05
_SETTLE_S = 900.0
_SNAPSHOT_S = 5.0
_NEW_VECTORS = 60_000
_POLL_S = 0.2


def metadata(number: int) -> dict[str, Any]:
    """Fields that let through a half, a tenth, a hundredth and a thousandth of the documents."""
    return {"half": number % 2, "tenth": number % 10, "hundredth": number % 100, "thousandth": number % 1000}


class ShardLoad:
    """One shard. Document n has vectors[i] and is called `n`; each record is the next offset.

    Vectors beyond the last are new ones, each near one of them: equal vectors would share a point of the graph, and
    cost nothing.
    """

    def __init__(self, folder: Path, texts: Sequence[str], vectors: NDArray[np.float16], **changed: Any) -> None:
        self.settings: Settings = load_settings(data_dir=folder, redis_url="", **changed)
        self._texts = texts
        self._vectors = vectors
        pairs = np.random.default_rng(2).integers(0, len(vectors), (2, _NEW_VECTORS))
        new = 0.9 * vectors[pairs[0]].astype(np.float32) + 0.44 * vectors[pairs[1]].astype(np.float32)
        self._new = (new / np.linalg.norm(new, axis=1, keepdims=True)).astype(np.float16)
        self.offset = 0
        self.shards = Shards(self.settings, _EPOCH)
        self.shards.acquire({0})
        self.shard.ready_at = 0

    @property
    def shard(self) -> Shard:
        """The shard."""
        return self.shards.open[0]

    def upsert(self, numbers: Sequence[int], vector_of: Sequence[int] | None = None) -> None:
        """Apply one transaction as the worker does, and wait for room as it does."""
        events = [self._record(n, at) for n, at in zip(numbers, vector_of or numbers, strict=True)]
        self.shard.apply(events)
        self.shards.make_room(0, len(events))

    def delete(self, numbers: Sequence[int]) -> None:
        """Apply one transaction of deletes."""
        self.shard.apply([self._event(n, None, "delete") for n in numbers])
        self.shards.make_room(0, len(numbers))

    def fill(self, numbers: Sequence[int], vector_of: Sequence[int] | None = None) -> float:
        """Upsert all, and wait until the graph has taken them; returns chunks per second of that."""
        began = time.perf_counter()
        for part in _parts(numbers):
            self.upsert(numbers[part], None if vector_of is None else vector_of[part])
        self.wait(lambda status: status.buffered <= self.settings.write_buffer_rows)
        return (len(numbers) - self.shard.status().buffered) / (time.perf_counter() - began)

    def delete_all(self, numbers: Sequence[int]) -> None:
        """Delete in transactions."""
        for part in _parts(numbers):
            self.delete(numbers[part])

    def settle(self) -> float:
        """Wait until the graph holds everything and hardly anything that is dead, and is saved; returns seconds."""
        began = time.perf_counter()
        self.wait(lambda s: s.buffered == 0 and s.graph_dead_ratio < _SETTLED_DEAD_RATIO and not s.rebuilding)
        settled_s = time.perf_counter() - began
        time.sleep(_SNAPSHOT_S)  # a snapshot that is being written is a copy of the graph in memory
        return settled_s

    def wait(self, reached: Any) -> None:
        """Until the status is so."""
        deadline = time.monotonic() + _SETTLE_S
        while not reached(self.shard.status()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the shard did not come so far: {self.shard.status()}")
            time.sleep(_POLL_S)

    @contextmanager
    def updates(self, count: int, per_second: float | None = None) -> Iterator[list[int]]:
        """Beside the block documents 0 to count - 1 are updated, by new vectors; counts them.

        per_second: None for as fast as they are taken.
        """
        stop, done = threading.Event(), [0]

        def update() -> None:
            shuffle = np.random.default_rng(1)
            size, began = 32 if per_second is None else 4, time.monotonic()
            while not stop.is_set():
                numbers = np.unique(shuffle.integers(0, count, size)).tolist()
                self.upsert(numbers, range(count + done[0], count + done[0] + len(numbers)))
                done[0] += len(numbers)
                if per_second is not None:
                    stop.wait(max(0.0, began + done[0] / per_second - time.monotonic()))

        thread = threading.Thread(target=update, name="updates")
        thread.start()
        try:
            yield done
        finally:
            stop.set()
            thread.join()

    def folder_bytes(self, suffix: str) -> int:
        """Of the files that end so."""
        return sum(path.stat().st_size for path in self.settings.data_dir.rglob(f"*{suffix}"))

    def close(self) -> None:
        """Close."""
        self.shards.close()

    def _record(self, number: int, at: int) -> Event:
        vectors, row = (
            (self._vectors, at) if at < len(self._vectors) else (self._new, (at - len(self._vectors)) % _NEW_VECTORS)
        )
        text = self._texts[at % len(self._vectors)]
        record = VectorRecord(
            id=str(number),
            text=text,
            title=None,
            metadata=metadata(number),
            content_hash=bytes(16),
            fingerprint="bench",
            spans=((0, len(text)),),
            vectors=vectors[row : row + 1],
        )
        return self._event(number, encode_vector_record(record), "document")

    def _event(self, number: int, value: bytes | None, kind: Any) -> Event:
        now_ms = time.time_ns() // 1_000_000
        told = RecordHeaders(kind, 0, self.offset, self.offset, now_ms, _EPOCH, now_ms)
        event = Event(0, self.offset, str(number).encode(), value, tuple(told.encode()), now_ms, now_ms * 1_000_000)
        self.offset += 1
        return event


def _parts(numbers: Sequence[int]) -> Iterator[slice]:
    for at in range(0, len(numbers), MOST_RECORDS):
        yield slice(at, at + MOST_RECORDS)
