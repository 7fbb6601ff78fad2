"""The shards that this worker owns at present, and the threads that work for them in the background."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from app.settings import Settings
from app.shard.memory import available_bytes
from app.shard.shard import Shard
from app.watchdog import Watchdog, changing
from schemas.errors import Fatal, Stalled

log = logging.getLogger("headrace.shard")

_ABSORB_REST_S = 0.02
_KEYWORD_REST_S = 0.01
_KEYWORD_SHARE = 0.25  # of a core at most: a commit takes about 10 ms, so words can be found within about 50 ms
_MAINTAIN_REST_S = 1.0
_TROUBLE_S = 5.0
# In a row, for one shard. What they work on is derived, and a start makes it anew from the rows; a writer of tantivy
# that has died stays dead
_MOST_FAILURES = 5
_ROOM_S = 5.0
_SMALL_BYTES = 4 * 2**20  # of a file: loaded in less time than it takes to tell that it is being loaded
_LEAST_BYTES_PER_S = 2 * 2**20  # of a file that is loaded, or of a graph that is written; usual are 100 MB/s
_MAINTAIN_NICE = 10  # queries and new records go first


class Shards:
    """Opened and closed by the worker's loop; read by any thread through an immutable map."""

    def __init__(
        self, settings: Settings, epoch: str, watchdog: Watchdog | None = None, partitions: int | None = None
    ) -> None:
        """partitions: that the collection has, see Shard."""
        self._settings = settings
        self._partitions = partitions
        self._watchdog = watchdog or Watchdog(0)
        self._epoch = epoch
        self._open: Mapping[int, Shard] = MappingProxyType({})
        self._loading: dict[int, Future[None]] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="shard-loader")
        self.failed: Exception | None = None  # then the worker has to end
        shards, give_up = self._workable, self._give_up
        self._background = (
            Background("absorber", _ABSORB_REST_S, self._absorb, shards, give_up),
            Background("keywords", _KEYWORD_REST_S, self._refresh, shards, give_up, share=_KEYWORD_SHARE),
            Background("maintenance", _MAINTAIN_REST_S, self._maintain, shards, give_up, nice=_MAINTAIN_NICE),
        )
        for background in self._background:
            background.start()

    @property
    def open(self) -> Mapping[int, Shard]:
        """The shards by partition, those that are still loading among them."""
        return self._open

    @property
    def trouble(self) -> str | None:
        """What goes wrong in the background: answers are right without it, and get slower or older."""
        return next((item.trouble for item in self._background if item.trouble is not None), None)

    def acquire(self, partitions: set[int]) -> None:
        """Open the shards of `partitions` that are not open yet; large ones are loaded in the background, in turn."""
        for partition in sorted(partitions - set(self._open)):
            shard = Shard(partition, self._path(partition), self._epoch, self._settings, self._partitions)
            if shard.stored_bytes <= _SMALL_BYTES:
                self._load(shard)
            else:
                self._loading[partition] = self._loader.submit(self._load, shard)
            self._open = MappingProxyType({**self._open, partition: shard})

    def release(self, partitions: set[int]) -> None:
        """Close shards; queries that still hold one may fail, and are answered by its next owner."""
        gone = [shard for partition, shard in self._open.items() if partition in partitions]
        self._open = MappingProxyType({p: shard for p, shard in self._open.items() if p not in partitions})
        for shard in gone:
            shard.stop()
            loading = self._loading.pop(shard.partition, None)
            if loading is not None and not loading.cancel():
                loading.result()
            for background in self._background:
                background.leave(shard)
            shard.close()

    def reset(self, partition: int) -> None:
        """Replace a shard by an empty one; its file is lost, the vectors topic has everything."""
        self.release({partition})
        path = self._path(partition)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self.acquire({partition})

    def make_room(self, partition: int, rows: int) -> None:
        """Hold up who applies records until the graph has kept up, for a few seconds at most."""
        shard = self._open.get(partition)
        if shard is not None and not shard.make_room(rows, _ROOM_S):
            log.warning("shard %d: its graph does not keep up; queries scan more and more", partition)

    def refusal(self) -> str | None:
        """Why nothing more should be taken in; None if there is memory for it."""
        left, reserve = available_bytes(), self._settings.memory_reserve_mb * 2**20
        if left is None or left >= reserve:
            return None
        return (
            f"only {left >> 20} MiB of memory are left (HEADRACE_MEMORY_RESERVE_MB="
            f"{self._settings.memory_reserve_mb}): "
            "give this worker more memory, or start another one that takes some of its shards"
        )

    def close(self) -> None:
        """Close everything."""
        self.release(set(self._open))
        for background in self._background:
            background.stop()
        self._loader.shutdown()

    def _path(self, partition: int) -> Path:
        settings = self._settings
        return settings.data_dir / settings.collection / f"replica-{settings.replica}" / f"shard-{partition}.sqlite"

    def _load(self, shard: Shard) -> None:
        try:
            with self._watching("loading", shard):
                shard.load()
        except sqlite3.ProgrammingError:  # given back meanwhile
            log.debug("shard %d was closed while it was loading", shard.partition)
        except BaseException as error:  # a panic of a binding is no Exception
            log.exception("shard %d cannot be loaded", shard.partition)
            self._give_up(error if isinstance(error, Exception) else Fatal(f"a shard cannot be loaded: {error!r}"))

    def _give_up(self, error: Exception) -> None:
        self.failed = self.failed or error

    def _workable(self) -> list[Shard]:
        return [shard for shard in self._open.values() if shard.loaded]

    def _absorb(self, shard: Shard) -> bool:
        with self._watchdog.watch(f"absorbing into the graph of shard {shard.partition}"):
            return shard.absorb()

    def _refresh(self, shard: Shard) -> bool:
        with self._watchdog.watch(f"refreshing the keywords of shard {shard.partition}"):
            return shard.refresh_keywords()

    def _maintain(self, shard: Shard) -> None:
        with self._watching("maintaining", shard):
            shard.maintain()

    def _watching(self, what: str, shard: Shard) -> AbstractContextManager[None]:
        """For what takes the longer the larger the shard is."""
        return self._watchdog.watch(
            f"{what} shard {shard.partition}",
            least_s=shard.stored_bytes / _LEAST_BYTES_PER_S,
            excuse=changing(lambda: shard.rebuild_progress),
        )


class Background:
    """A thread that does its work for one shard after another, again and again.

    work: returns whether there was any; where there was none for any shard it rests. give_up: called where it fails
    again and again. share: of the time that it may work. nice: how much others go first, 0 to 19.
    """

    def __init__(
        self,
        name: str,
        rest_s: float,
        work: Callable[[Shard], object],
        shards: Callable[[], list[Shard]],
        give_up: Callable[[Exception], object],
        *,
        share: float = 1.0,
        nice: int = 0,
    ) -> None:
        self._work = work
        self._shards = shards
        self._give_up = give_up
        self._rest_s = rest_s
        self._pause = 1.0 / share - 1.0
        self._nice = nice
        self._turn = threading.Condition()
        self._busy_with: Shard | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._troubles: dict[int, _Trouble] = {}

    @property
    def trouble(self) -> str | None:
        """What went wrong with a shard the last time."""
        return next((trouble.what for trouble in tuple(self._troubles.values())), None)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def leave(self, shard: Shard) -> None:
        """Wait for what is being done for a shard that is no longer among `shards`."""
        with self._turn:
            self._turn.wait_for(lambda: self._busy_with is not shard)
        self._troubles.pop(shard.partition, None)

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        self._thread.join(5)

    def _run(self) -> None:
        if self._nice and hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)  # of this thread alone, on Linux
        while not self._stopped.is_set():
            began = time.perf_counter()
            worked = [self._work_for(shard) for shard in self._shards()]
            rest_s = (time.perf_counter() - began) * self._pause if any(worked) else self._rest_s
            if rest_s:
                self._stopped.wait(rest_s)

    def _work_for(self, shard: Shard) -> bool:
        trouble = self._troubles.get(shard.partition)
        with self._turn:
            gone = shard not in self._shards()  # given back meanwhile
            rests = trouble is not None and time.monotonic() < trouble.again
            if gone or rests or self._stopped.is_set():
                return False
            self._busy_with = shard
        try:
            worked = bool(self._work(shard))
            self._troubles.pop(shard.partition, None)
        except BaseException as error:  # a panic of a binding is no Exception, and would end the thread unseen
            log.exception("%s of shard %d failed", self._thread.name, shard.partition)
            self._failed(shard.partition, error, 1 if trouble is None else trouble.failures + 1)
            worked = False
        finally:
            with self._turn:
                self._busy_with = None
                self._turn.notify_all()
        return worked

    def _failed(self, partition: int, error: BaseException, failures: int) -> None:
        what = f"{self._thread.name} of shard {partition}: {error!r}"
        self._troubles[partition] = _Trouble(time.monotonic() + _TROUBLE_S, what, failures)
        if failures >= _MOST_FAILURES:
            self._give_up(Stalled(f"{what}, {failures} times in a row: ending, to be started again"))


class _Trouble(NamedTuple):
    """again: when to try once more. failures: in a row."""

    again: float
    what: str
    failures: int
