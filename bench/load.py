"""A steady stream of changes from a process of its own: open loop, evenly spaced, until its input is closed.

`python -m bench.load --rate N DOCUMENTS.json`, with [id, text] pairs; every change gives its document a text that
was never seen, so each costs a model call. `Load` runs it beside a measurement.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import orjson

from app.local.process import stop, tied
from app.settings import load_settings
from bench.meters import quantiles
from bench.publish import Reached, upsert
from producers.publisher import DocumentPublisher

_ENDS_WITHIN_S = 60


def revised(text: str, revision: int) -> str:
    """A text of about the same length that is not in any cache."""
    return f"{text}\n\nRevision {revision}."


class Load:
    """Publishes `rate` changes a second from the entry of a `with` to its end; then `sent` says what it did.

    environment: what it needs to reach Kafka and the collection. documents: id and text, changed in turn.
    first_revision: revisions count from here; use each number once.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        rate: float,
        documents: Sequence[tuple[str, str]],
        first_revision: int,
        folder: Path,
    ) -> None:
        self._environment = {**os.environ, **environment}
        self._rate = rate
        self._first_revision = first_revision
        self._file = folder / f"load-{first_revision}.json"
        self._file.write_bytes(orjson.dumps(list(documents)))
        self.sent: dict[str, Any] = {}

    def __enter__(self) -> Load:
        options = ["--rate", str(self._rate), "--first-revision", str(self._first_revision)]
        self._process = subprocess.Popen(
            tied([sys.executable, "-m", "bench.load", *options, str(self._file)], signal.SIGKILL),
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != b"started":
            stop(self._process, 1)
            raise RuntimeError("the load did not start; the lines above may say why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            out, _ = self._process.communicate(timeout=_ENDS_WITHIN_S)
            if kind is None:
                self.sent = orjson.loads(out.splitlines()[-1])
        finally:
            stop(self._process, 1)

    @property
    def offsets(self) -> Mapping[int, int]:
        """The last source offset by partition, after the end."""
        return {int(partition): offset for partition, offset in self.sent["offsets"].items()}


@click.command()
@click.option("--rate", type=float, required=True)
@click.option("--first-revision", type=int, default=1)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load(rate: float, first_revision: int, file: Path) -> None:
    """Publish until the input is closed; print what was sent."""
    documents: list[tuple[str, str]] = orjson.loads(file.read_bytes())
    closed = threading.Event()
    threading.Thread(target=_await_end, args=(closed,), daemon=True).start()
    reached = Reached()
    late_ms: list[float] = []
    with DocumentPublisher(load_settings()) as publisher:
        publisher.connect()
        print("started", flush=True)
        began = time.monotonic()
        while not closed.wait(began + len(late_ms) / rate - time.monotonic()):
            number = len(late_ms)
            document_id, text = documents[number % len(documents)]
            late_ms.append((time.monotonic() - began - number / rate) * 1000)
            publisher.send(upsert(document_id, revised(text, first_revision + number)), reached.confirmed)
        seconds = time.monotonic() - began
        publisher.flush(30)
    told = {
        "sent": len(late_ms),
        "seconds": seconds,
        "per_second": len(late_ms) / seconds,
        "errors": len(reached.errors),
    }
    offsets = {str(partition): offset for partition, offset in reached.offsets.items()}
    print(orjson.dumps(told | {"late_ms": quantiles(late_ms), "offsets": offsets}).decode())


def _await_end(closed: threading.Event) -> None:
    sys.stdin.read()
    closed.set()


if __name__ == "__main__":
    load()
