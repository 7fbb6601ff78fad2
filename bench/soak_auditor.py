"""`headrace audit` itself, again and again beside the faults, and once more in the end."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from app.local.process import headrace_command
from app.local.role import role_environment
from app.settings import Settings

_REST_S = 2.0
_TIMEOUT_S = 15  # of the command, for each shard that does not answer: longer than a fault lasts
_LIMIT_S = 240.0  # all shards of a partition away, in each partition
_CLEAN, _DRIFT, _INCOMPLETE = range(3)


class Audited(NamedTuple):
    """What one run of the command came to. incomplete: why it could not look at everything. wrong: what must not be."""

    clean: bool
    incomplete: str | None
    wrong: dict[str, list[str]]


class Auditor:
    """A thread that audits all replicas and Redis while everything breaks: what is under way must not be reported.

    counts: runs by outcome. drift, findings: what a run reported, or how else than by a missing service it failed.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="auditor", daemon=True)
        self.counts: Counter[str] = Counter()
        self.drift: Counter[str] = Counter()
        self.findings: list[str] = []
        self.incomplete: list[str] = []
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Begin no more, and wait for the one that runs."""
        self._stop.set()
        self._thread.join(_LIMIT_S + _TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._again_and_again()
        except BaseException as error:  # noqa: BLE001 the main thread raises it
            self.error = error

    def _again_and_again(self) -> None:
        while not self._stop.wait(_REST_S):
            found = run_audit(self._settings, self._folder)
            self.counts["drift" if found.wrong else "clean" if found.clean else "ended by a fault"] += 1
            for kind, words in found.wrong.items():
                self.drift[kind] += len(words)
                self.findings += words
            if found.incomplete is not None:
                self.incomplete.append(found.incomplete)


def run_audit(settings: Settings, folder: Path) -> Audited:
    """Run the command once, to its end."""
    places = {name: getattr(settings, name) for name in ("brokers", "collection", "redis_url")}
    try:
        done = subprocess.run(
            [*headrace_command("audit"), "--json", "--examples", "5", "--timeout", str(_TIMEOUT_S)],
            cwd=folder,
            env=role_environment(places),
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Audited(clean=False, incomplete=None, wrong={"hung": [f"an audit did not end within {_LIMIT_S:.0f} s"]})
    return judged(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def judged(status: int, out: bytes, err: str) -> Audited:
    """From the exit status and the report. Drift counts, whether or not the rest could be audited as well."""
    report: dict[str, Any] = orjson.loads(out) if out else {}
    counts = report.get("counts", [])
    last = err.strip().rpartition("\n")[2]
    if counts:
        found = {"drift": [f"{count}; for example {report['examples']}" for count in counts]}
        return Audited(clean=False, incomplete=None, wrong=found)
    if status == _CLEAN and report:
        return Audited(clean=True, incomplete=None, wrong={})
    if status == _INCOMPLETE:
        return Audited(clean=False, incomplete="; ".join(report.get("problems", ())) or last, wrong={})
    return Audited(clean=False, incomplete=None, wrong={"failed": [f"an audit ended with status {status}: {last}"]})
