"""A shard that is written, absorbed and searched at once: an updated document is always found, once, whole."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.shard.shard import Shard
from app.shard.shards import Shards
from schemas.filters import parse_filter
from tests.unit.shard.parts import delete, document, open_shard, random_units, shard_settings, unit

SECONDS = 2.5
TARGET = unit(1)


class Threads:
    """Runs steps over and over until the end, and keeps what they raise."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.rounds: dict[str, int] = {}

    @contextmanager
    def running(self, **steps: Callable[[int], object]) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=item, name=item[0]) for item in steps.items()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        if self.errors:
            raise self.errors[0]

    def _run(self, name: str, step: Callable[[int], object]) -> None:
        number = 0
        try:
            while not self.stop.is_set():
                step(number)
                number += 1
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            self.errors.append(error)
            self.stop.set()
        finally:
            self.rounds[name] = number


def near_target(number: int) -> NDArray[np.float32]:
    """Two chunks, both nearer to the target than any other document."""
    turned = unit(1, 0.02 * (number % 7), 0.02 * (number % 5))
    return np.stack([turned, unit(1, 0.1)])


def test_a_document_that_is_updated_over_and_over_is_always_found_exactly_once(tmp_path: Path) -> None:
    shard: Shard = open_shard(tmp_path, write_buffer_rows=16, hnsw_m=16, hnsw_ef_construction=64, hnsw_ef_search=64)
    crowd = random_units(60, 1)
    crowd[:, 0] = -np.abs(crowd[:, 0])
    shard.apply([document(n, f"crowd {n}", vector) for n, vector in enumerate(crowd)])
    shard.apply([document(60, "target", near_target(0), text="00", metadata={"turn": "even"})])
    offset = [61]

    def write(number: int) -> None:
        """The target, and a crowd that changes beside it; a text tells its own version in both of its chunks."""
        turn = number + 1
        letter = "0123456789"[turn % 10]
        events = [
            document(
                offset[0],
                "target",
                near_target(turn),
                text=letter * 2,
                metadata={"turn": "odd" if turn % 2 else "even"},
            ),
            document(offset[0] + 1, f"crowd {number % 60}", crowd[(number * 7) % 60]),
            delete(offset[0] + 2, f"crowd {(number * 13) % 60}"),
        ]
        shard.apply(events)
        offset[0] += len(events)

    def absorb(_: int) -> None:
        if not shard.absorb():
            time.sleep(0.0005)

    def search(_: int) -> None:
        hits = shard.search(TARGET, 3, None, "m")
        ids = [hit.document.id for hit in hits]
        assert ids.count("target") == 1, ids
        assert ids[0] == "target"
        assert hits[0].text == (hits[0].document.text or "")[0]

    def search_filtered(number: int) -> None:
        for turn in ("odd", "even"):
            for hit in shard.search(TARGET, 3, parse_filter({"turn": turn}), "m"):
                assert hit.document.id == "target"
                assert hit.document.metadata == {"turn": turn}
        both = shard.search(TARGET, 3, parse_filter({"turn": ["odd", "even"]}), "m")
        assert [hit.document.id for hit in both] == ["target"]

    threads = Threads()
    with threads.running(write=write, absorb=absorb, search=search, search_again=search, filtered=search_filtered):
        threads.stop.wait(SECONDS)
    assert all(rounds > 10 for rounds in threads.rounds.values()), threads.rounds
    assert shard.status().graph_dead_ratio > 0
    shard.close()


def test_shards_are_taken_and_given_back_beside_searches(tmp_path: Path) -> None:
    """A search of a shard that is closed in the meantime may fail, but only so that its caller can tell."""
    shards = Shards(shard_settings(tmp_path, write_buffer_rows=4), "epoch")
    shards.acquire({0, 1})
    for partition in (0, 1):
        shards.open[partition].apply([document(n, f"d{n}", vector) for n, vector in enumerate(random_units(40, 3))])
    closed = [0]

    def rebalance(_: int) -> None:
        shards.release({0})
        shards.acquire({0})

    def search(_: int) -> None:
        for shard in shards.open.values():
            try:
                assert len(shard.search(TARGET, 5, None, "m")) == 5
            except sqlite3.ProgrammingError:
                closed[0] += 1
                assert shard.partition == 0

    threads = Threads()
    with threads.running(rebalance=rebalance, search=search, search_again=search):
        threads.stop.wait(SECONDS / 2)
    assert all(rounds > 5 for rounds in threads.rounds.values()), threads.rounds
    assert set(shards.open) == {0, 1}
    shards.close()
