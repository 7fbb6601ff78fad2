"""A shard that is written, absorbed, rebuilt, saved and searched at once: a document that is updated over and over is
always found, once, whole: by its old version or by its new one, never by both, never by neither.

HEADRACE_SOAK_S=600 runs the longest of these tests for so many seconds.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.event import Event
from app.shard.rebuild import Rebuild
from app.shard.shard import Shard
from app.shard.shards import Shards
from schemas.errors import NotServing
from schemas.filters import parse_filter
from tests.services_local import eventually
from tests.unit.shard.parts import delete, document, open_shard, random_units, shard_settings, unit
from tests.unit.shard.test_snapshot import save

SECONDS = 3.5
CROWD = 60
SOAK_S = float(os.environ.get("HEADRACE_SOAK_S", "0"))
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


class Story:
    """A shard with a target that is updated over and over amid a crowd that changes, and all that can go on beside.

    A text of the target tells its own version in both of its chunks.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for place in (
            "app.shard.graph.FIRST_CAPACITY",
            "app.shard.rebuild.FIRST_CAPACITY",
            "app.shard.shard._FIRST_ROWS",
        ):
            monkeypatch.setattr(place, 4)  # so that everything grows while it is searched
        self.folder = folder
        self._settings = {"write_buffer_rows": 16}
        self.shard = open_shard(folder, **self._settings)
        self._crowd = random_units(CROWD, 1)
        self._crowd[:, 0] = -np.abs(self._crowd[:, 0])
        self._offset = 0
        crowd = [self._event(document, f"crowd {n}", vector) for n, vector in enumerate(self._crowd)]
        self.shard.apply([*crowd, self._target(0)])
        self.shard.refresh_keywords()

    def write(self, number: int) -> None:
        """The target, and the crowd, of which a part is new each time and a part goes."""
        events = [
            self._target(number + 1),
            self._event(document, f"crowd {number % CROWD}", self._crowd[(number * 7) % CROWD]),
            self._event(delete, f"crowd {(number * 13) % CROWD}"),
            self._event(document, f"later {number % CROWD}", self._crowd[number % CROWD]),
        ]
        self.shard.apply(events)

    def absorb(self, _: int) -> None:
        if not self.shard.absorb():
            time.sleep(0.0005)

    def refresh(self, _: int) -> None:
        self.shard.refresh_keywords()
        time.sleep(0.002)

    def rebuild(self, _: int) -> None:
        index = self.shard._index
        assert index is not None
        assert Rebuild(index, 1.0, self.shard._words_sequence).run()

    def save(self, _: int) -> None:
        assert save(self.shard)
        time.sleep(0.01)

    def search(self, _: int) -> None:
        hits = self.shard.search(TARGET, 3, None, "m")
        ids = [hit.document.id for hit in hits]
        assert ids.count("target") == 1, ids
        assert ids[0] == "target"
        assert len(ids) == 3
        assert hits[0].text == (hits[0].document.text or "")[0]

    def search_filtered(self, _: int) -> None:
        for turn in ("odd", "even"):
            for hit in self.shard.search(TARGET, 3, parse_filter({"turn": turn}), "m"):
                assert hit.document.id == "target"
                assert hit.document.metadata == {"turn": turn}
        both = self.shard.search(TARGET, 3, parse_filter({"turn": ["odd", "even"]}), "m")
        assert [hit.document.id for hit in both] == ["target"]

    def search_words(self, _: int) -> None:
        hits = self.shard.search(None, 5, None, None, "target")
        assert [hit.document.id for hit in hits] == ["target"]
        assert hits[0].text == (hits[0].document.text or "")[0]

    def search_words_filtered(self, _: int) -> None:
        hits = self.shard.search(None, 5, parse_filter({"turn": ["odd", "even"]}), None, "target")
        assert [hit.document.id for hit in hits] == ["target"]
        for turn in ("odd", "even"):
            for hit in self.shard.search(None, 5, parse_filter({"turn": turn}), None, "target"):
                assert (hit.document.id, hit.document.metadata) == ("target", {"turn": turn})

    def search_both_ways(self, _: int) -> None:
        hits = self.shard.search(TARGET, 5, None, "m", "target")
        (target,) = (hit for hit in hits if hit.document.id == "target")
        assert target.vector_score is not None
        assert target.keyword_score is not None
        assert len({hit.document.id for hit in hits}) == len(hits)

    def tell(self, _: int) -> None:
        status = self.shard.status()
        assert 0 <= status.graph_dead_ratio <= 1
        assert status.documents > 0
        assert (status.next_offset or 0) <= (self.shard.next_offset or 0)

    def check_what_is_left(self) -> None:
        """After all that: the same answers as from the file alone, with and without the last snapshot."""
        expected = everything(self.shard)
        self.shard.refresh_keywords()
        self.search_words_filtered(0)
        self.shard.close()
        for _ in range(2):
            self.shard = open_shard(self.folder, **self._settings)
            assert everything(self.shard) == pytest.approx(expected, abs=1e-3)
            self.search_words_filtered(0)
            self.shard.close()
            (self.folder / "shard-0.graph").unlink(missing_ok=True)

    def _target(self, number: int) -> Event:
        text, turn = "0123456789"[number % 10] * 2, "odd" if number % 2 else "even"
        return self._event(document, "target", near_target(number), text=text, metadata={"turn": turn})

    def _event(self, make: Callable[..., Event], *given: object, **named: object) -> Event:
        self._offset += 1
        return make(self._offset - 1, *given, **named)


def everything(shard: Shard) -> dict[str, float]:
    """Each document with its score."""
    hits = shard.search(TARGET, 5000, None, "m")
    assert len(hits) == shard.status().documents
    return {hit.document.id: hit.score for hit in hits}


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(tmp_path, monkeypatch)


def test_a_document_is_found_exactly_once_while_the_graph_absorbs_it(story: Story) -> None:
    run(
        story,
        SECONDS,
        write=story.write,
        absorb=story.absorb,
        refresh=story.refresh,
        status=story.tell,
        **{"search": story.search, "search again": story.search, "filtered": story.search_filtered},
        words=story.search_words,
        both=story.search_both_ways,
    )


def test_a_document_is_found_exactly_once_while_the_graph_is_rebuilt_and_saved_over_and_over(story: Story) -> None:
    run(story, SECONDS, **maintained(story))


@pytest.mark.skipif(not SOAK_S, reason="a soak: set HEADRACE_SOAK_S to its seconds")
@pytest.mark.timeout(SOAK_S + 120)
def test_a_document_is_found_exactly_once_for_as_long_as_it_is_tried(story: Story) -> None:
    run(story, SOAK_S, **maintained(story))


def maintained(story: Story) -> dict[str, Callable[[int], object]]:
    return {
        "write": story.write,
        "absorb": story.absorb,
        "refresh": story.refresh,
        "rebuild": story.rebuild,
        "save": story.save,
        "search": story.search,
        "filtered": story.search_filtered,
        "words": story.search_words,
        "words_filtered": story.search_words_filtered,
        "both": story.search_both_ways,
        "tell": story.tell,
    }


def run(story: Story, seconds: float, **steps: Callable[[int], object]) -> None:
    threads = Threads()
    with threads.running(**steps):
        threads.stop.wait(seconds)
    assert all(rounds > 3 for rounds in threads.rounds.values()), threads.rounds
    story.check_what_is_left()


def test_shards_are_taken_and_given_back_beside_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of a shard that is closed or loaded in the meantime may fail, but only so that its caller can tell."""
    monkeypatch.setattr("app.shard.shards._SMALL_BYTES", 2**15)  # others are loaded in the background
    shards = Shards(shard_settings(tmp_path, write_buffer_rows=4), "epoch")
    shards.acquire({0, 1})
    for partition in (0, 1):
        shards.open[partition].apply([document(n, f"d{n}", vector) for n, vector in enumerate(random_units(40, 3))])
    eventually(lambda: all(shard.progress(by_words=True).next_offset == 40 for shard in shards.open.values()))
    failed: set[int] = set()

    def rebalance(number: int) -> None:
        shards.release({0})
        shards.acquire({0})
        shards.open[0].apply([document(40 + number, f"d{number % 40}", TARGET)])

    def search(_: int) -> None:
        for shard in shards.open.values():
            try:
                assert len(shard.search(TARGET, 5, None, "m")) == 5
                assert len(shard.search(TARGET, 5, None, "m", "title")) >= 5
            except (sqlite3.ProgrammingError, NotServing):
                failed.add(shard.partition)

    threads = Threads()
    with threads.running(rebalance=rebalance, search=search, search_again=search):
        threads.stop.wait(SECONDS / 2)
    assert all(rounds > 5 for rounds in threads.rounds.values()), threads.rounds
    assert set(shards.open) == {0, 1}
    assert failed <= {0}
    assert (shards.failed, shards.trouble) == (None, None)
    shards.close()
