"""`headrace top`: its screen at several sizes, and the command on a terminal whose gateway goes and comes back."""

from __future__ import annotations

import copy
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click import UsageError
from click.testing import CliRunner, Result

from app.cli.asking import Told
from app.cli.top import top
from app.cli.top_frame import View, frame
from app.cli.words import took
from app.local.process import free_port, headrace_command
from schemas.errors import ServiceMissing
from tests.services_local import eventually
from tests.unit.test_status_cli import ANSWER, SHARD, Server, freshness, worker

URL = "http://127.0.0.1:8080"
LAG = {
    "known": True,
    "embed": {str(number): {"records": 3, "seconds": 0.25} for number in range(40)},
    "index": {str(number): {"records": 0, "seconds": 0} for number in range(40)},
    "dead_letters": 7,
}


def view(shards: int = 4, **changes: Any) -> View:
    rows = [SHARD | {"shard": number, "staleness_ms": 10 * number} for number in range(shards)]
    answer = copy.deepcopy(ANSWER) | {"shards": rows, "lag": LAG, **changes}
    shown = View(URL, Told(answer, [worker()], local=False), searches_per_s=12.3, search_ms=4.1)
    shown.rates.extend([10.0, 40.0, 20.0])
    shown.latencies_ms.extend([80.0, 90.0])
    return shown


def lines(shown: View, width: int = 80, height: int = 24) -> list[str]:
    drawn = frame(shown, width, height).plain.split("\n")
    assert len(drawn) <= height
    assert max(map(len, drawn)) <= width
    return drawn


def test_a_screen_of_80_by_24_has_everything_that_matters() -> None:
    text = "\n".join(drawn := lines(view()))
    assert len(drawn) == 24
    for words in (
        "documents  ready",
        "as of 01:50:33.1Z, 38 ms stale",
        "1,234 documents, 2,345 chunks",
        "objective  kept: 99.50 % within 1 s, wanted 99 %  burn 5 min 0.5  1 h 0.5",
        "0.0/s embedded  20.0/s visible  12.3/s searched, 4.1 ms\n",
        "of the last 200 documents",
        "33.3% hits, model",
        "dead letters 7   probes 12 seen, 0 failed   drift 0",
        "Redis ok",
        "q leaves",
    ):
        assert words in text, (words, text)
    assert re.search(r"wait in vectors +█+ +1[23]% +9.9 ms +9.9 ms", text)
    assert re.search(r"sent to visible +79 ms +79 ms", text)
    assert re.search(r"\n  3     ready +30 ms +[▏▎▍▌▋▊▉█]+ +3, 250 ms +0\n", text)


@pytest.mark.parametrize("height", [12, 13, 18, 24, 30, 60, 200])
@pytest.mark.parametrize("width", [60, 79, 80, 119, 120, 200])
@pytest.mark.parametrize("shards", [1, 4, 40])
def test_every_size_is_filled_and_never_overflows(width: int, height: int, shards: int) -> None:
    drawn = lines(view(shards, reason="shard 1 missing"), width, height)
    assert len(drawn) == height
    assert drawn[0].startswith("documents  not ready")
    assert drawn[-1].endswith("q leaves")
    assert any("! shard 1 missing" in line for line in drawn)
    assert any("objective" in line for line in drawn)


def test_a_larger_screen_shows_embed_workers_and_what_came_meanwhile() -> None:
    text = "\n".join(lines(view(), 140, 40))
    assert "here:8082  " in text
    assert "documents/s  ▃█▅ up to 40" in text
    assert any("wait in changes" in line and " ready " in line for line in lines(view(), 140, 40)), "side by side"


def test_of_more_shards_than_there_is_room_for_the_worst_are_shown() -> None:
    shown = view(40)
    assert shown.told is not None
    shown.told.answer["shards"][17] |= {"state": "unreachable"}
    text = "\n".join(lines(shown))
    assert "unreachable" in text
    assert "390 ms" in text
    assert not re.search(r"^  0 ", text, re.MULTILINE)
    assert re.search(r"… and \d+ more that are better off", text)


def test_what_is_not_known_is_a_dash_and_no_error() -> None:
    unknown = dict.fromkeys(("replica", "worker", "paused", "reason", "applied_offset", "as_of", "staleness_ms"))
    missing = {"shard": 1, "state": "missing", "documents": 0, "chunks": 0} | unknown
    nothing = {"probes": {}, "drift": None}
    shown = view(lag=None, as_of=None, staleness_ms=None, checks=nothing, freshness=freshness())
    assert shown.told is not None
    shown.told.answer["shards"] = [SHARD, missing]
    shown = View(URL, Told(shown.told.answer, None, local=False))
    for width in (80, 140):
        text = "\n".join(lines(shown, width))
        assert "of unknown age" in text
        assert "no document became visible in the last five minutes" in text
        assert "dead letters –   probes 0 seen, 0 failed   drift –" in text
        assert "rates      –/s embedded" in text


@pytest.mark.parametrize(("short", "long", "told"), [(3, 0.5, "AT RISK"), (3, 2, "MISSED"), (0.1, 2, "kept again")])
def test_a_burning_objective_is_told_before_it_is_missed(short: float, long: float, told: str) -> None:
    burning = freshness(990, 10)
    burning["windows"]["300"]["burn"], burning["windows"]["3600"]["burn"] = short, long
    assert any(told in line for line in lines(view(freshness=burning)))


def test_a_gateway_that_went_away_is_told_above_what_it_said_last() -> None:
    shown = view()
    shown.gone = "no gateway at here since 12:00:00Z, asking on: refused"
    drawn = lines(shown)
    assert drawn[0] == shown.gone
    assert any("wait in changes" in line for line in drawn)


def test_a_reason_of_many_lines_takes_one() -> None:
    drawn = lines(view(reason="it says:\n  no\n  room"))
    assert "! it says: no room" in drawn
    assert len(drawn) == 24


def test_a_terminal_that_is_too_small_is_told_what_is_needed() -> None:
    assert lines(view(), 50, 24) == ["at least 60 x 12 characters are needed"]


# --- the command


@pytest.fixture
def gateway() -> Iterator[Server]:
    server = Server()
    server.answer["embed_workers"] = [worker()]
    yield server
    server.close()


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80", "LINES": "24"}).invoke(
        top, [*arguments, "--interval", "0.1"], standalone_mode=False, catch_exceptions=False
    )


def test_once_prints_one_screen_with_the_rate_of_searches(gateway: Server) -> None:
    gateway.metrics.search_seconds.observe(0.1)
    result = run("--url", gateway.url, "--once")
    assert result.return_value == 0
    assert "documents  ready" in result.output
    assert "0.0/s searched" in result.output
    assert "\x1b" not in result.output


def test_once_without_a_gateway_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ServiceMissing, match=r"no gateway at http://127.0.0.1:\d+ \(--url\): .*headrace serve"):
        run("--url", f"http://127.0.0.1:{free_port()}", "--once")


def test_without_a_terminal_it_says_to_use_once(gateway: Server) -> None:
    with pytest.raises(UsageError, match="--once"):
        run("--url", gateway.url)


class Terminal:
    """`headrace top` on a terminal of 80 by 24."""

    def __init__(self, *arguments: str) -> None:
        self.own, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self._drawn = bytearray()
        self.process = subprocess.Popen(
            [*headrace_command("top"), *arguments],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while drawn := os.read(self.own, 65536):
                self._drawn += drawn
        except OSError:
            return

    @property
    def drawn(self) -> str:
        """Since the last `forget`, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", bytes(self._drawn).decode(errors="replace"))

    def forget(self) -> None:
        self._drawn.clear()

    def shows(self, words: str) -> Callable[[], bool]:
        return lambda: words in self.drawn

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.theirs)
        os.close(self.own)


def test_a_gateway_that_goes_away_is_told_at_once_and_it_goes_on_when_that_is_back() -> None:
    server = Server()
    server.answer["embed_workers"] = [worker()]
    terminal = Terminal("--url", server.url, "--interval", "0.1")
    try:
        eventually(terminal.shows("documents  ready"), within_s=60)
        server.close()
        eventually(terminal.shows(f"no gateway at {server.url} since "), within_s=30)
        server = Server(server.port)
        server.answer["embed_workers"] = [worker()]
        terminal.forget()
        eventually(terminal.shows("documents  ready"), within_s=30)
        os.write(terminal.own, b"q")
        assert terminal.process.wait(30) == 0
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        eventually(terminal.shows("\x1b[?1049l"), within_s=30)
    finally:
        server.close()
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_as_q_does_even_where_no_gateway_ever_was(number: signal.Signals) -> None:
    terminal = Terminal("--url", f"http://127.0.0.1:{free_port()}")
    try:
        eventually(terminal.shows("no gateway at"), within_s=60)
        terminal.process.send_signal(number)
        assert terminal.process.wait(30) == 0
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0834, "83 µs"),
        (7, "7.0 ms"),
        (9.96, "10 ms"),
        (999.6, "1 s"),
        (1240, "1.24 s"),
        (59_990, "60 s"),
        (192_000, "3.2 min"),
        (7_560_000, "2.1 h"),
    ],
)
def test_times_are_told_in_three_digits(ms: float | None, told: str) -> None:
    assert took(ms) == told
