"""A role that is told to end while it imports, connects and loads: status 0 and no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.local.role import role_environment

# what the installed `headrace` does; before this the signal alone ends the process
_START = "from app.cli import main; print('there', flush=True); main()"
_SETTINGS = {"runtime": "hashing", "brokers": "127.0.0.1:1", "redis_url": "", "index_urls": "http://127.0.0.1:1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("role", ["embed", "index", "serve", "demo"])
def test_a_role_that_is_ended_while_it_starts_ends_in_order(role: str, number: signal.Signals, tmp_path: Path) -> None:
    ports = {"port": 0, "index_port": 0, "embed_port": 0}
    started = []
    for delay_s in (0.05, 0.2, 0.5):
        process = subprocess.Popen(
            [sys.executable, "-c", _START, role],
            cwd=tmp_path,
            env=role_environment(_SETTINGS | ports),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(number)
        started.append(process)
    for process in started:
        _, words = process.communicate(timeout=60)
        assert b"Traceback" not in words
        assert process.returncode == 0, words
