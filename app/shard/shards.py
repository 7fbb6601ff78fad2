"""The shards that this worker owns at present, and the thread that builds their graphs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from app.settings import Settings
from app.shard.shard import Shard

log = logging.getLogger("headrace.shard")

_REST_S = 0.05
_TROUBLE_S = 5.0


class Shards:
    """Opened and closed by the worker's loop; read by any thread through an immutable map.

    pressed: whether records are waiting to be applied; then absorbing can wait.
    """

    def __init__(self, settings: Settings, epoch: str, pressed: Callable[[], bool]) -> None:
        self._settings = settings
        self._epoch = epoch
        self._pressed = pressed
        self._open: Mapping[int, Shard] = MappingProxyType({})
        self._stopped = threading.Event()
        self.trouble: str | None = None
        self._absorbing = threading.Lock()
        self._absorber = threading.Thread(target=self._absorb, name="absorber", daemon=True)
        self._absorber.start()

    @property
    def open(self) -> Mapping[int, Shard]:
        """The shards by partition."""
        return self._open

    def acquire(self, partitions: set[int]) -> None:
        """Open the shards of `partitions` that are not open yet; takes a second per 200,000 chunks."""
        for partition in sorted(partitions - set(self._open)):
            shard = Shard(partition, self._path(partition), self._epoch, self._settings)
            self._open = MappingProxyType({**self._open, partition: shard})

    def release(self, partitions: set[int]) -> None:
        """Close shards; queries that still hold one may fail, and are answered by its next owner."""
        gone = [shard for partition, shard in self._open.items() if partition in partitions]
        self._open = MappingProxyType({p: shard for p, shard in self._open.items() if p not in partitions})
        with self._absorbing:
            for shard in gone:
                shard.close()

    def reset(self, partition: int) -> None:
        """Replace a shard by an empty one; its file is lost, the vectors topic has everything."""
        self.release({partition})
        path = self._path(partition)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self.acquire({partition})

    def close(self) -> None:
        """Close everything."""
        self._stopped.set()
        self._absorber.join(5)
        self.release(set(self._open))

    def _path(self, partition: int) -> Path:
        settings = self._settings
        return settings.data_dir / settings.collection / f"replica-{settings.replica}" / f"shard-{partition}.sqlite"

    def _absorb(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._absorbing:
                    pressed = self._pressed()
                    worked = [shard.absorb(pressed=pressed) for shard in self._open.values()]
                self.trouble = None
            except Exception as error:
                # queries stay right without a graph, and get slower: say so, go on
                log.exception("a graph cannot be built")
                self.trouble = f"a graph cannot be built: {type(error).__name__}: {error}"
                worked = []
                self._stopped.wait(_TROUBLE_S)
            if not any(worked):
                self._stopped.wait(_REST_S)
