"""The demo as a whole: from nothing to a hit, and nothing left after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from app.local.process import headrace_command
from tests.services_local import eventually, is_alive


@pytest.mark.model
def test_the_demo_finds_what_it_published_and_leaves_nothing_behind(tmp_path: Path) -> None:
    temporary, out = tmp_path / "tmp", tmp_path / "out.txt"
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environment |= {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    command = headrace_command("demo", "--documents", "50", "--port", "0")
    with (
        out.open("w") as output,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output, process_group=0) as demo,
    ):
        try:
            eventually(lambda: "Ctrl-C stops" in out.read_text() or demo.poll() is not None, within_s=120)
            family = [child.pid for child in psutil.Process(demo.pid).children(recursive=True)]
            demo.send_signal(signal.SIGINT)
            demo.wait(20)
        finally:
            demo.kill()

    said = out.read_text()
    assert demo.returncode == 0, said
    assert "first hit after" in said
    assert "stopped, nothing is left behind" in said
    assert len(family) >= 5  # three roles, the feed and its publisher; and a Redis, if there is one
    assert not [pid for pid in family if is_alive(pid)]
    assert list(temporary.glob("headrace-demo-*")) == []
