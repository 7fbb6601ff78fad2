from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from app.watchdog import Watchdog, changing


def test_a_stage_that_takes_too_long_is_told_and_then_ends_the_process() -> None:
    now, ended = [0.0], list[str]()
    dog = Watchdog(100, lambda: now[0], ended.append)
    with dog.watch("a batch"):
        now[0] = 24
        dog.look()
        assert dog.trouble is None
        now[0] = 25
        dog.look()
        assert dog.trouble == "a batch has taken 25 s so far; after 100 s the process ends"
        assert not ended
        now[0] = 100
        dog.look()
        assert ended == [
            "a batch has taken 100 s, more than 100 s (HEADRACE_STALL_TIMEOUT_S=100): ending, to be started again"
        ]
    assert dog.trouble is None


def test_what_ended_in_time_is_forgotten() -> None:
    now, ended = [0.0], list[str]()
    dog = Watchdog(100, lambda: now[0], ended.append)
    for _ in range(5):
        with dog.watch("a batch"):
            now[0] += 99
        dog.look()
    assert not ended


def test_the_same_stage_in_several_threads_is_as_slow_as_the_slowest() -> None:
    now, ended = [0.0], list[str]()
    dog = Watchdog(100, lambda: now[0], ended.append)
    with dog.watch("a search"):
        now[0] = 60
        with dog.watch("a search"):
            now[0] = 90
        dog.look()
        assert not ended
        assert dog.trouble == "a search has taken 90 s so far; after 100 s the process ends"
    assert dog.trouble is None


def test_what_may_take_longer_has_its_own_limit_and_what_moves_has_none() -> None:
    now, ended, done = [0.0], list[str](), [0]
    dog = Watchdog(100, lambda: now[0], ended.append)
    with dog.watch("loading", least_s=1000), dog.watch("a rebuild", excuse=changing(lambda: done[0])):
        for _ in range(4):
            now[0] += 90
            done[0] += 1
            dog.look()
        assert not ended
        assert dog.trouble == "loading has taken 360 s so far; after 1000 s the process ends"
        now[0] += 100
        dog.look()
        assert ended[0].startswith("a rebuild has taken 100 s, more than 100 s")


async def test_an_event_loop_that_turns_is_no_trouble() -> None:
    now = [0.0]
    dog = Watchdog(100, lambda: now[0])
    beating = asyncio.create_task(dog.beat())
    await asyncio.sleep(0)
    now[0] = 30
    assert dog.trouble is not None
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    assert dog.trouble is None


_HANGS = """
import asyncio, time
from app.watchdog import Watchdog

async def main():
    dog = Watchdog(0.3)
    asyncio.create_task(dog.beat())
    await asyncio.sleep(0)
    dog.start()
    time.sleep(60)  # the loop turns no more

asyncio.run(main())
"""

_HANGS_BESIDE = """
import asyncio, threading, time
from app.watchdog import Watchdog

def hang():
    time.sleep(60)

dog = Watchdog(0.3)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
dog.watch_loop(loop, "the event loop of HTTP")
loop.call_soon_threadsafe(hang)
dog.start()
time.sleep(60)
"""

_NOBODY_READS = """
import os, sys
from app import watchdog

watchdog._LAST_WORDS_S = 0.3
os.set_blocking(2, True)
watchdog._end("x" * 2**20)
"""


@pytest.mark.parametrize(
    ("program", "stage", "function"),
    [(_HANGS, "the event loop has taken", "in main"), (_HANGS_BESIDE, "the event loop of HTTP has taken", "in hang")],
)
def test_a_loop_that_hangs_ends_the_process_with_the_stacks_of_its_threads(
    program: str, stage: str, function: str
) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert stage in done.stderr
    assert function in done.stderr


def test_a_process_whose_words_nobody_reads_ends_all_the_same() -> None:
    with subprocess.Popen([sys.executable, "-c", _NOBODY_READS], stderr=subprocess.PIPE) as process:
        assert process.wait(30) == 1


async def test_the_beat_of_another_loop_ends_with_the_watchdog() -> None:
    now = [0.0]
    dog = Watchdog(100, lambda: now[0])
    dog.watch_loop(asyncio.get_running_loop(), "a loop")
    await asyncio.sleep(0.01)
    now[0] = 30
    assert dog.trouble == "a loop has taken 30 s so far; after 100 s the process ends"
    dog.stop()
    await asyncio.sleep(0.01)
    assert dog.trouble is None
