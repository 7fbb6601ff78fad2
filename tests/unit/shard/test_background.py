"""A thread that works again and again: it rests, is paused, fails and ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.shard import shards as module
from app.shard.shards import Background
from tests.services_local import eventually


@contextmanager
def running(background: Background) -> Iterator[Background]:
    background.start()
    try:
        yield background
    finally:
        background.stop()


class Work:
    """Counts its rounds. worked: what it says of them."""

    def __init__(self, *, worked: bool = True, seconds: float = 0.0) -> None:
        self.rounds = 0
        self.inside = False
        self._worked = worked
        self._seconds = seconds

    def __call__(self) -> bool:
        self.inside = True
        time.sleep(self._seconds)
        self.rounds += 1
        self.inside = False
        return self._worked


def test_it_goes_on_at_once_while_there_is_work_and_rests_when_there_is_none() -> None:
    busy, idle = Work(), Work(worked=False)
    with running(Background("busy", 5.0, busy)), running(Background("idle", 5.0, idle)):
        eventually(lambda: busy.rounds > 20)
        assert idle.rounds <= 1


def test_while_it_is_paused_nothing_is_done_and_nothing_is_half_done() -> None:
    work = Work(seconds=0.005)
    with running(Background("worker", 0.001, work)) as background:
        for _ in range(3):
            eventually(lambda: work.inside)
            background.pause()
            assert not work.inside
            before = work.rounds
            time.sleep(0.03)
            assert work.rounds == before
            background.go_on()
            eventually(lambda: work.rounds > before)


def test_what_goes_wrong_is_told_and_is_forgotten_when_it_goes_well_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TROUBLE_S", 0.01)
    broken = threading.Event()
    broken.set()

    def work() -> bool:
        if broken.is_set():
            raise RuntimeError("no room")
        return False

    with running(Background("absorber", 0.001, work)) as background:
        eventually(lambda: background.trouble == "absorber: RuntimeError: no room")
        broken.clear()
        eventually(lambda: background.trouble is None)


def test_it_ends_also_from_the_rest_after_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> bool:
        raise RuntimeError

    background = Background("absorber", 5.0, work)
    background.start()
    eventually(lambda: background.trouble is not None)
    began = time.monotonic()
    background.stop()
    assert time.monotonic() - began < 2
    assert not background._thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no priorities here")
def test_only_the_thread_that_is_nice_is_nice() -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def work() -> bool:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return False

    with running(Background("nice", 5.0, work, nice=7)):
        eventually(lambda: found)
    assert found[0] == 7
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
