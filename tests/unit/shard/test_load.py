"""A shard that is being loaded: it refuses searches, takes records, and holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.shard.shard import Shard
from app.shard.shards import Shards
from app.shard.store import ShardStore
from schemas.errors import Fatal, NotServing
from tests.services_local import eventually
from tests.unit.shard.parts import (
    EPOCH,
    delete,
    document,
    found,
    open_shard,
    random_units,
    shard_settings,
    unit,
)

VECTORS = random_units(30, 1)


class Gate:
    """Holds up who loads a shard's rows: before the state of the file is fixed that is read, or after."""

    def __init__(self, *, fixed: bool) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._everything = ShardStore.everything
        self._fixed = fixed

    @contextmanager
    def everything(self, store: ShardStore) -> Iterator[Any]:
        if not self._fixed:
            self._wait()
        with self._everything(store) as content:
            if self._fixed:
                self._wait()
            yield content

    def _wait(self) -> None:
        self.reached.set()
        assert self.go_on.wait(20)


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch, *, fixed: bool = True) -> Iterator[Gate]:
    gate = Gate(fixed=fixed)
    monkeypatch.setattr(ShardStore, "everything", lambda store: gate.everything(store))
    try:
        yield gate
    finally:
        gate.go_on.set()


def fill(folder: Path) -> None:
    shard = open_shard(folder)
    shard.apply([document(n, f"d{n}", vector, metadata={"n": n}) for n, vector in enumerate(VECTORS[:20])])
    shard.close()


def by_words(shard: Shard, text: str) -> list[str]:
    return sorted(hit.document.id for hit in shard.search(None, 50, None, None, text))


@pytest.mark.parametrize("fixed", [False, True], ids=["before the file is read", "while the file is read"])
def test_what_is_applied_while_a_shard_loads_is_there_once_when_it_has_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    fill(tmp_path)
    with held_up(monkeypatch, fixed=fixed) as gate:
        shard = Shard(0, tmp_path / "shard-0.sqlite", EPOCH, shard_settings(tmp_path))
        loading = threading.Thread(target=shard.load)
        loading.start()
        assert gate.reached.wait(5)
        shard.apply([document(20, "d1", VECTORS[21]), delete(21, "d2")])
        shard.apply([document(22, "new", VECTORS[22]), document(23, "d1", VECTORS[23]), document(5, "d5", VECTORS[5])])
        assert not shard.loaded
        gate.go_on.set()
        loading.join(10)
    assert shard.loaded
    expected = sorted({f"d{n}" for n in range(20)} - {"d2"} | {"new"})
    assert sorted(found(shard, VECTORS[0], 50)) == expected
    assert found(shard, VECTORS[23], 1) == ["d1"]
    shard.refresh_keywords()
    assert by_words(shard, "title") == expected
    status = shard.status()
    assert (status.documents, status.chunks, status.next_offset) == (20, 20, 24)
    shard.close()


def test_the_first_records_of_a_new_shard_may_come_while_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_up(monkeypatch, fixed=True) as gate:
        shard = Shard(0, tmp_path / "shard-0.sqlite", EPOCH, shard_settings(tmp_path))
        loading = threading.Thread(target=shard.load)
        loading.start()
        assert gate.reached.wait(5)
        shard.apply([document(0, "a", VECTORS[0])])
        gate.go_on.set()
        loading.join(10)
    assert found(shard, VECTORS[0]) == ["a"]
    shard.close()


def test_a_search_of_a_shard_that_loads_is_refused_and_a_document_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    with held_up(monkeypatch) as gate:
        shard = Shard(0, tmp_path / "shard-0.sqlite", EPOCH, shard_settings(tmp_path))
        loading = threading.Thread(target=shard.load)
        loading.start()
        assert gate.reached.wait(5)
        for text in (None, "title"):
            with pytest.raises(NotServing, match="shard 0 is loading"):
                shard.search(VECTORS[0], 3, None, None, text)
        assert (shard.status().state, shard.ready, shard.stored_bytes > 4096) == ("loading", False, True)
        stored = shard.document("d3")
        assert stored is not None
        assert stored.metadata == {"n": 3}
        gate.go_on.set()
        loading.join(10)
    assert shard.status().state == "catching up"
    shard.ready_at = 20
    assert shard.status().state == "ready"
    shard.close()


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shards]:
    """Shard 0 is in the file and is loaded in the background, shard 1 is new."""
    made = Shards(shard_settings(tmp_path, write_buffer_rows=4), EPOCH)
    made.acquire({0})
    made.open[0].apply([document(n, f"d{n}", vector) for n, vector in enumerate(VECTORS)])
    made.release({0})
    monkeypatch.setattr("app.shard.shards._SMALL_BYTES", 2**15)
    yield made
    made.close()


def test_a_shard_that_loads_holds_up_no_other(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_up(monkeypatch, fixed=True) as gate:
        gate.go_on.clear()
        monkeypatch.setattr(ShardStore, "everything", _only_of_the_first(gate))
        shards.acquire({0, 1})
        assert gate.reached.wait(5)
        one = shards.open[1]
        one.apply([document(n, f"o{n}", vector) for n, vector in enumerate(VECTORS)])
        assert found(one, VECTORS[7], 1) == ["o7"]
        eventually(lambda: len(by_words(one, "title")) == 30)
        eventually(lambda: one.status().buffered < 4)
        assert not shards.open[0].loaded
    eventually(lambda: shards.open[0].loaded)
    assert found(shards.open[0], VECTORS[7], 1) == ["d7"]


def _only_of_the_first(gate: Gate) -> Any:
    return lambda store: (gate.everything if store.path.stem == "shard-0" else gate._everything)(store)


def test_a_shard_is_given_back_while_it_loads_and_can_be_taken_again(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_up(monkeypatch) as gate:
        shards.acquire({0})
        assert gate.reached.wait(5)
        releasing = threading.Thread(target=shards.release, args=({0},))
        releasing.start()
        eventually(lambda: not shards.open)
        gate.go_on.set()
        releasing.join(10)
        assert not releasing.is_alive()
    assert (shards.failed, shards.trouble) == (None, None)
    shards.acquire({0})
    eventually(lambda: shards.open[0].loaded)
    assert found(shards.open[0], VECTORS[3], 1) == ["d3"]


def test_a_shard_that_cannot_be_loaded_is_told_to_the_worker(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ShardStore) -> None:
        raise MemoryError("too many rows")

    monkeypatch.setattr(ShardStore, "everything", fail)
    shards.acquire({0})
    eventually(lambda: shards.failed is not None)
    assert isinstance(shards.failed, MemoryError)
    with pytest.raises(NotServing):
        shards.open[0].search(unit(1), 1, None, None)


def test_a_panic_while_a_shard_is_loaded_is_told_to_the_worker(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        """As pyo3_runtime.PanicException: no Exception."""

    def panic(_: ShardStore) -> None:
        raise Panic("tantivy panicked")

    monkeypatch.setattr(ShardStore, "everything", panic)
    shards.acquire({0})
    eventually(lambda: shards.failed is not None)
    assert isinstance(shards.failed, Fatal)
    assert "tantivy panicked" in str(shards.failed)
