from __future__ import annotations

import asyncio
import subprocess
import sys

from app.watchdog import Watchdog


def test_a_stage_that_takes_too_long_is_told_and_then_ends_the_process() -> None:
    now, ended = [0.0], list[float]()
    dog = Watchdog(100, lambda: now[0], lambda: ended.append(now[0]))
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
        assert ended == [100]
    assert dog.trouble is None


def test_what_ended_in_time_is_forgotten() -> None:
    now, ended = [0.0], list[float]()
    dog = Watchdog(100, lambda: now[0], lambda: ended.append(now[0]))
    for _ in range(5):
        with dog.watch("a batch"):
            now[0] += 99
        dog.look()
    assert not ended


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


def test_a_loop_that_hangs_ends_the_process_with_the_stacks_of_its_threads() -> None:
    done = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "the event loop has taken" in done.stderr
    assert "in main" in done.stderr
