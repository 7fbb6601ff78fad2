"""The installed `headrace publish` as a process of its own, against librdkafka's mock broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.settings import Settings
from tests.unit.producers.broker import MockBroker, changes, read_topic

TIMEOUT_S = 60
HEADRACE = Path(sys.executable).with_name("headrace")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mock_broker() -> MockBroker:
    return MockBroker()


@pytest.fixture
def settings(mock_broker: MockBroker) -> Settings:
    return mock_broker.settings()


class Publishing:
    """One run of the command; killed at the end of the test if it still runs."""

    def __init__(self, folder: Path, settings: Settings, *arguments: str, **environment: str) -> None:
        given = {
            "HEADRACE_BROKERS": settings.brokers,
            "HEADRACE_COLLECTION": settings.collection,
            "HEADRACE_EMBEDDED_BROKER_ID": "test",
        }
        pipe: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(
            [HEADRACE, "publish", *arguments], cwd=folder, env={**os.environ, **given, **environment}, **pipe
        )

    def write(self, *changes: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(orjson.dumps(change) + b"\n" for change in changes))
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out.decode(), err.decode()

    def __enter__(self) -> Publishing:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=TIMEOUT_S)


def test_piped_lines_are_published_as_they_come(tmp_path: Path, settings: Settings) -> None:
    with Publishing(tmp_path, settings, "--json") as publishing:
        publishing.write({"id": "a", "text": "x"})
        read_topic(settings, 1)  # long before the pipe ends
        publishing.write({"id": "b", "text": "y"})
        status, out, err = publishing.end()
    assert (status, err) == (0, "")
    assert orjson.loads(out)["published"] == 2


def test_a_bad_line_leaves_status_1_and_its_name_on_stderr(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "in.jsonl").write_text('{"id":"a","text":"x"}\n{"id":"a"}\n')
    with Publishing(tmp_path, settings, "in.jsonl") as publishing:
        status, out, err = publishing.end()
    assert (status, err) == (1, "in.jsonl:2: an upsert needs 'text'\n")
    assert out.startswith("published 1  failed 0  bad input 1")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_half_way_confirms_what_was_sent_and_prints_the_summary(
    tmp_path: Path, settings: Settings, number: signal.Signals, expected: int
) -> None:
    with Publishing(tmp_path, settings) as publishing:
        publishing.write(*({"id": str(i), "text": "x"} for i in range(100)))
        read_topic(settings, 100)
        publishing.process.send_signal(number)
        status, out, err = publishing.end()
    assert (status, err) == (expected, "")
    assert out.startswith("published 100  failed 0  bad input 0")
    assert "stopped: interrupted" in out


def test_a_watched_folder_follows_its_files_until_ctrl_c(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("one")
    with Publishing(tmp_path, settings, "--watch", "docs", "--json") as publishing:
        read_topic(settings, 1)
        (folder / "b.txt").write_text("two")
        read_topic(settings, 2)
        (folder / "a.md").unlink()
        assert changes(settings, 3)["a.md"].op == "delete"
        publishing.process.send_signal(signal.SIGINT)
        status, out, err = publishing.end()
    assert (status, err) == (130, "")
    assert orjson.loads(out)["published"] == 3


def test_without_a_broker_one_line_says_what_is_missing_and_what_to_do(tmp_path: Path, settings: Settings) -> None:
    with Publishing(tmp_path, settings, HEADRACE_BROKERS="127.0.0.1:1") as publishing:
        publishing.write({"id": "a", "text": "x"})
        status, out, err = publishing.end()
    assert (status, out) == (1, "")
    assert err.startswith("headrace: no Kafka at 127.0.0.1:1 (HEADRACE_BROKERS): ")
    assert err.endswith("Start one, or `headrace up`.\n")
    assert err.count("\n") == 1


@pytest.fixture
def mortal_broker() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A mock broker in a process that can be killed."""
    script = (
        "import sys; from tests.unit.producers.broker import MockBroker; broker = MockBroker(); "
        "print(broker.address, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    yield process.stdout.readline().decode().strip(), process
    process.kill()
    process.communicate(timeout=TIMEOUT_S)


def test_a_broker_killed_on_the_way_has_every_unconfirmed_change_reported(
    tmp_path: Path, settings: Settings, mortal_broker: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, broker = mortal_broker
    reachable = settings.model_copy(update={"brokers": address})
    with Publishing(tmp_path, reachable, "--timeout", "2", "--json") as publishing:
        publishing.write({"id": "before", "text": "x"})
        read_topic(reachable, 1)
        broker.kill()
        broker.wait(TIMEOUT_S)
        publishing.write(*({"id": str(i), "text": "x"} for i in range(10)))
        status, out, err = publishing.end()
    summary = orjson.loads(out)
    assert (status, summary["published"], summary["failed"], summary["unconfirmed"]) == (1, 1, 10, 0)
    assert sorted(line.split(" ")[0] for line in err.splitlines()) == sorted(f"stdin:{i}:" for i in range(2, 12))


def test_help_names_the_formats_and_the_exit_status(tmp_path: Path, settings: Settings) -> None:
    with Publishing(tmp_path, settings, "--help") as publishing:
        status, out, _ = publishing.end()
    assert status == 0
    assert "jsonl|csv|tsv|parquet|files" in out
    assert "Exit status: 0 all published" in " ".join(out.split())
