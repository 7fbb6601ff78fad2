"""A thread that works for one shard after another: it rests, lets go of a shard, survives trouble and ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from app.shard import shards as module
from app.shard.shards import Background
from schemas.errors import Stalled
from tests.services_local import eventually


@contextmanager
def running(rest_s: float, work: Callable[[Any], object], *partitions: int, **given: Any) -> Iterator[Any]:
    """The thread, with `shards` that may be taken away from it."""
    shards = [SimpleNamespace(partition=partition) for partition in partitions or (0,)]
    gave_up: list[Exception] = []
    background: Any = Background("worker", rest_s, work, lambda: list(shards), gave_up.append, **given)  # type: ignore[arg-type]
    background.own, background.gave_up = shards, gave_up
    background.start()
    try:
        yield background
    finally:
        background.stop()
        assert not background._thread.is_alive()


class Work:
    """Counts its rounds by partition. worked: what it says of them."""

    def __init__(self, *, worked: bool = True, seconds: float = 0.0) -> None:
        self.rounds: dict[int, int] = {}
        self.inside: int | None = None
        self._worked = worked
        self._seconds = seconds

    def __call__(self, shard: Any) -> bool:
        self.inside = shard.partition
        time.sleep(self._seconds)
        self.rounds[shard.partition] = self.rounds.get(shard.partition, 0) + 1
        self.inside = None
        return self._worked


def test_it_goes_on_at_once_while_there_is_work_and_rests_when_there_is_none() -> None:
    busy, idle = Work(), Work(worked=False)
    with running(5.0, busy, 0, 1), running(5.0, idle, 0):
        eventually(lambda: busy.rounds.get(0, 0) > 20 and busy.rounds.get(1, 0) > 20)
        assert idle.rounds.get(0, 0) <= 1


def test_it_works_no_more_than_its_share_of_the_time() -> None:
    work = Work(seconds=0.004)
    began = time.monotonic()
    with running(5.0, work, share=0.25):
        eventually(lambda: work.rounds.get(0, 0) >= 10)
        assert time.monotonic() - began > 9 * 0.016


def test_after_a_shard_was_left_nothing_is_done_for_it_and_the_others_go_on() -> None:
    work = Work(seconds=0.003)
    with running(0.001, work, 0, 1) as background:
        eventually(lambda: work.inside == 0)
        gone = background.own.pop(0)
        background.leave(gone)
        assert work.inside != 0
        before = dict(work.rounds)
        eventually(lambda: work.rounds.get(1, 0) > before.get(1, 0) + 3)
        assert work.rounds[0] == before[0]


def test_a_shard_is_left_at_once_while_another_one_is_worked_on_for_long() -> None:
    inside, end = threading.Event(), threading.Event()

    def work(shard: Any) -> bool:
        if shard.partition == 1:
            inside.set()
            assert end.wait(20)
        return False

    with running(0.001, work, 0, 1) as background:
        assert inside.wait(5)
        leaving = threading.Thread(target=background.leave, args=(background.own.pop(0),))
        leaving.start()
        leaving.join(5)
        assert not leaving.is_alive()
        end.set()


def test_what_goes_wrong_is_told_and_is_forgotten_when_it_goes_well_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TROUBLE_S", 0.01)
    broken = threading.Event()
    broken.set()

    def work(_: Any) -> bool:
        if broken.is_set():
            raise RuntimeError("no room")
        return False

    with running(0.001, work, 3) as background:
        eventually(lambda: background.trouble is not None)
        assert "shard 3" in background.trouble
        assert "no room" in background.trouble
        broken.clear()
        eventually(lambda: background.trouble is None)


class Panic(BaseException):
    """As pyo3_runtime.PanicException: no Exception."""


def test_a_panic_of_a_binding_is_told_and_ends_neither_the_thread_nor_the_work_for_others() -> None:
    done = threading.Event()

    def work(shard: Any) -> bool:
        if shard.partition == 0:
            raise Panic("tantivy panicked")
        done.set()
        return False

    with running(0.001, work, 0, 1) as background:
        assert done.wait(2)
        assert "tantivy panicked" in background.trouble
        assert background._thread.is_alive()


def test_what_fails_again_and_again_is_given_up_and_what_fails_now_and_then_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TROUBLE_S", 0.0)
    monkeypatch.setattr(module, "_MOST_FAILURES", 3)
    rounds = {0: 0, 1: 0}

    def work(shard: Any) -> bool:
        rounds[shard.partition] += 1
        if shard.partition == 0 and rounds[0] % 3:
            raise RuntimeError("now and then")
        if shard.partition == 1 and rounds[1] > 20:
            raise Panic("for ever")
        return False

    with running(0.001, work, 0, 1) as background:
        eventually(lambda: rounds[0] > 20)
        eventually(lambda: background.gave_up)
        error = background.gave_up[0]
        assert isinstance(error, Stalled)
        assert "worker of shard 1: Panic('for ever'), 3 times in a row" in str(error)
        assert not any("shard 0" in str(error) for error in background.gave_up)


def test_one_shard_that_fails_does_not_hold_up_the_others() -> None:
    done = threading.Event()

    def work(shard: Any) -> bool:
        if shard.partition == 0:
            raise RuntimeError("bad")
        done.set()
        return False

    with running(0.001, work, 0, 1) as background:
        assert done.wait(2)
        assert background.trouble is not None
        background.leave(background.own.pop(0))
        assert background.trouble is None


def test_it_ends_also_from_the_rest_after_trouble() -> None:
    def work(_: Any) -> bool:
        raise RuntimeError

    with running(5.0, work) as background:
        eventually(lambda: background.trouble is not None)
        began = time.monotonic()
        background.stop()
        assert time.monotonic() - began < 2


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no priorities here")
def test_only_the_thread_that_is_nice_is_nice() -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def work(_: Any) -> bool:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return False

    with running(5.0, work, nice=min(19, own + 2)):
        eventually(lambda: found)
    assert found[0] == min(19, own + 2)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
