"""The lock around a graph: queries run together, a change runs alone, and none of them waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.shard.lock import GraphLock
from tests.services_local import eventually
from tests.unit.shard.test_threads import Threads

SECONDS = 0.7


@contextmanager
def shared(lock: GraphLock) -> Iterator[None]:
    lock.enter()
    try:
        yield
    finally:
        lock.leave()


def test_queries_run_together() -> None:
    lock, together = GraphLock(), threading.Barrier(3, timeout=5)

    def query() -> None:
        with shared(lock):
            together.wait()

    threads = [threading.Thread(target=query) for _ in range(2)]
    for thread in threads:
        thread.start()
    with shared(lock):
        together.wait()
    for thread in threads:
        thread.join(5)
    assert not together.broken


def test_a_change_waits_for_the_queries_inside_and_keeps_others_out() -> None:
    lock = GraphLock()
    order: list[str] = []
    changing, end = threading.Event(), threading.Event()

    def change() -> None:
        with lock.exclusive():
            order.append("change")
            changing.set()
            end.wait(5)
            order.append("changed")

    def query() -> None:
        with shared(lock):
            order.append("query")

    changer, asker = threading.Thread(target=change), threading.Thread(target=query)
    with shared(lock):
        changer.start()
        assert not changing.wait(0.05)
        order.append("left")
    assert changing.wait(5)
    asker.start()
    eventually(lambda: lock._waiting == 1)
    end.set()
    changer.join(5)
    asker.join(5)
    assert order == ["left", "change", "changed", "query"]


def test_nobody_sees_half_a_change_and_nobody_starves() -> None:
    lock = GraphLock()
    state = [0, 0]
    inside = [0, 0]

    def change(number: int) -> None:
        with lock.exclusive():
            assert inside == [0, 0]
            state[0] = number
            time.sleep(0.0005)
            state[1] = number

    def query(at: int) -> None:
        with shared(lock):
            inside[at] = 1
            assert state[0] == state[1]
            time.sleep(0.0002)
            assert state[0] == state[1]
            inside[at] = 0

    threads = Threads()
    with threads.running(change=change, query=lambda _: query(0), other=lambda _: query(1)):
        threads.stop.wait(SECONDS)
    assert all(rounds > 20 for rounds in threads.rounds.values()), threads.rounds


def test_what_raises_inside_lets_go() -> None:
    lock = GraphLock()
    for _ in range(3):
        with pytest.raises(RuntimeError), lock.exclusive():
            raise RuntimeError
        with pytest.raises(RuntimeError), shared(lock):
            raise RuntimeError
    done = threading.Event()

    def use() -> None:
        with lock.exclusive():
            pass
        with shared(lock):
            done.set()

    threading.Thread(target=use, daemon=True).start()
    assert done.wait(5)


def test_a_change_that_nobody_waits_for_does_not_wait_either() -> None:
    lock = GraphLock()
    began = time.monotonic()
    for _ in range(100):
        with lock.exclusive():
            pass
    assert time.monotonic() - began < 1.0  # each would wait 20 ms for queries that wait
