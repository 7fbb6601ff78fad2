"""Ties between processes, and ending them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from app.local.process import free_port, listens, port_is_free, stop, tied, until_stopped


def test_a_tied_command_is_the_command_itself() -> None:
    done = subprocess.run(
        tied([sys.executable, "-c", "import os, sys; print(os.getpid()); sys.exit(7)"]),
        capture_output=True,
        check=False,
    )

    assert done.returncode == 7
    assert int(done.stdout) > 0


def test_a_tied_command_that_does_not_exist_says_so() -> None:
    done = subprocess.run(tied(["/no/such/program"]), capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "/no/such/program: No such file or directory\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_body_after_its_own_clean_up(number: signal.Signals) -> None:
    cleaned: list[str] = []
    before = signal.getsignal(number)

    with until_stopped(), ExitStack() as stack:
        stack.callback(lambda: (os.kill(os.getpid(), number), cleaned.append("the second signal changed nothing")))
        os.kill(os.getpid(), number)
        cleaned.append("the body went on")

    assert cleaned == ["the second signal changed nothing"]
    assert signal.getsignal(number) == before


def test_stop_tells_whether_the_process_ended_by_itself() -> None:
    willing = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    assert stop(willing, within_s=10)

    code = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\nwhile 1: signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert not stop(stubborn, within_s=0.1)


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()

    assert port_is_free("127.0.0.1", port)
    assert not listens("127.0.0.1", port)
