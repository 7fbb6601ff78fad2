"""The supervisor, with small scripts in the place of the roles."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local.children import BACK_OFF_S, STEADY_S, Child, Children
from app.local.console import Console
from app.local.process import free_port
from schemas.errors import ServiceMissing
from tests.services_local import eventually, is_alive

SLEEPER = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile 1: signal.pause()"
)
TELLING = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print(sys.argv[1], "stops")))
print("up", sys.argv[1], flush=True)
while 1: signal.pause()
"""
READY_LATER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Answer.asked += 1
        self.send_response(200 if Answer.asked > 3 else 503)
        self.end_headers()
        self.wfile.write(b'{"ready": false, "reason": "loading the model"}')
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.step_s = 0.0

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


class Stage:
    """A supervisor whose console writes into memory."""

    def __init__(self, folder: Path) -> None:
        self.out, self.errors, self.clock = io.StringIO(), io.StringIO(), Clock()
        self.logs = folder / "logs"
        self.children = Children(self.logs, Console(self.out, self.errors), self.clock)

    def start(self, name: str, code: str, *arguments: str, **options: str) -> None:
        self.children.start(Child(name, [sys.executable, "-c", code, *arguments], **options))  # type: ignore[arg-type]

    def said(self, text: str) -> bool:
        return text in self.errors.getvalue()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.children.stop()


def test_output_is_shown_with_the_name_and_kept_in_a_file(stage: Stage) -> None:
    stage.children.start(
        Child("embed", [sys.executable, "-c", "import os; print(os.environ['WORD'])"], {"WORD": "grüß"})
    )

    eventually(lambda: stage.said("embed   | grüß\n"))
    eventually(lambda: (stage.logs / "embed.log").read_text(encoding="utf-8") == "grüß\n")


def test_a_child_that_dies_is_started_again_after_a_back_off_that_grows(stage: Stage) -> None:
    stage.start("index", SLEEPER)
    pid = stage.children.pids()["index"]
    for death in range(3):
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not stage.children.pids())
        stage.children.tend()
        stage.clock.now += BACK_OFF_S * 2**death - 0.1
        stage.children.tend()
        assert not stage.children.pids()
        stage.clock.now += 0.1
        stage.children.tend()
        assert stage.children.pids()["index"] != pid
        pid = stage.children.pids()["index"]
    assert stage.out.getvalue().count("index ended with signal 9; starting it again") == 3


def test_the_back_off_begins_anew_after_a_long_life(stage: Stage) -> None:
    stage.start("index", SLEEPER)
    for _ in range(3):
        stage.clock.now += STEADY_S + 1
        os.kill(stage.children.pids()["index"], signal.SIGKILL)
        eventually(lambda: not stage.children.pids())
        stage.children.tend()
        stage.clock.now += BACK_OFF_S
        stage.children.tend()
        assert stage.children.pids()


def test_readiness_is_waited_for_and_what_is_missing_is_asked(stage: Stage) -> None:
    port = free_port()
    stage.start("embed", READY_LATER, str(port), ready_url=f"http://127.0.0.1:{port}/readyz")

    stage.children.wait_ready(within_s=20)


def test_a_child_that_is_never_ready_is_named_with_its_own_reason(stage: Stage) -> None:
    port = free_port()
    never = READY_LATER.replace("Answer.asked > 3", "False")
    stage.start("embed", never, str(port), ready_url=f"http://127.0.0.1:{port}/readyz")
    stage.clock.step_s = 1.0  # a second passes at every look at the clock, so that 20 of them are soon over

    with pytest.raises(ServiceMissing, match="not ready after 20 s: embed: loading the model"):
        stage.children.wait_ready(within_s=20)
    assert "waiting for embed: loading the model" in stage.out.getvalue()


def test_a_child_that_ends_before_it_is_ready_is_an_error_with_its_last_line(stage: Stage) -> None:
    stage.start("search", "import sys; sys.exit('no model at /nowhere')", ready_url="http://127.0.0.1:1/readyz")

    with pytest.raises(ServiceMissing, match="search ended with status 1 before it was ready: no model at /nowhere"):
        stage.children.wait_ready(within_s=20)


def test_children_stop_in_reverse_order(stage: Stage) -> None:
    for name in ("embed", "index", "search"):
        stage.start(name, TELLING, name)
        eventually(lambda name=name: stage.said(f"up {name}"))

    stage.children.stop()

    stops = [line.split("|")[1].strip() for line in stage.errors.getvalue().splitlines() if "stops" in line]
    assert stops == ["search stops", "index stops", "embed stops"]


def test_who_ignores_the_signal_is_killed_at_the_deadline(stage: Stage) -> None:
    for name in ("a", "b", "c"):
        stage.start(name, STUBBORN)
        eventually(lambda name=name: stage.said(f"{name:7} | up"))
    pids = stage.children.pids().values()
    began = time.monotonic()

    stage.children.stop(within_s=0.5)

    assert time.monotonic() - began < 3
    assert not [pid for pid in pids if is_alive(pid)]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_no_child_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from app.local.children import Child, Children
from app.local.console import Console
children = Children(Path({str(tmp_path)!r}), Console())
for name in ("embed", "index"):
    children.start(Child(name, [sys.executable, "-c", {SLEEPER!r}]))
while len([p for p in Path({str(tmp_path)!r}).glob("*.log") if p.read_text() == "up\\n"]) < 2:
    time.sleep(0.02)
print(*children.pids().values(), flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        parent.kill()

    eventually(lambda: not any(map(is_alive, pids)))
