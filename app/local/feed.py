"""The stream of the demo: the corpus first, then a trickle of edits, deletes and returns until SIGTERM.

Run as `python -m app.local.feed`. It pipes its changes into a `headrace publish -` of its own, as any program that
writes JSON Lines could.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime

import click

from app.local.corpus import Docstring, docstrings
from app.local.process import headrace_command, stop, tied, until_stopped
from schemas.document_change import DocumentChange

TRICKLED_DOCUMENTS = 2000  # the trickle changes these and leaves the rest as it is
OFTEN_CHANGED = 60  # the best-known documents come first and get half of the edits, so that people see them happen
DELETE_ONE_IN = 12
RETURNS_AFTER = 8  # changes later, a deleted document is published again


def upsert(document: Docstring, remark: str = "") -> DocumentChange:
    """The change that publishes this document, with a remark at the end of its text."""
    return DocumentChange(
        op="upsert",
        id=document.id,
        title=document.title,
        text=f"{document.text}\n\n{remark}" if remark else document.text,
        metadata=document.metadata,
        event_time=time.time_ns() // 1_000_000,
    )


class Trickle:
    """What happens to documents that are already published: endless, one change at a call."""

    def __init__(
        self,
        documents: list[Docstring],
        chance: random.Random,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._documents = documents
        self._chance = chance
        self._clock = clock
        self._edited: set[str] = set()
        self._deleted: deque[tuple[int, Docstring]] = deque()
        self._changes_count = 0

    def next(self) -> DocumentChange:
        """An edit, an edit taken back, a delete, or the return of a deleted document."""
        self._changes_count += 1
        if self._deleted and self._deleted[0][0] <= self._changes_count:
            return upsert(self._deleted.popleft()[1], f"Published again at {self._clock():%H:%M:%S}.")
        document = self._pick()
        if self._chance.randrange(DELETE_ONE_IN) == 0:
            self._deleted.append((self._changes_count + RETURNS_AFTER, document))
            self._edited.discard(document.id)
            return DocumentChange(op="delete", id=document.id, event_time=time.time_ns() // 1_000_000)
        if document.id in self._edited and self._chance.random() < 0.5:
            self._edited.remove(document.id)
            return upsert(document)
        self._edited.add(document.id)
        return upsert(document, f"Edited at {self._clock():%H:%M:%S}.")

    def _pick(self) -> Docstring:
        gone = {document.id for _, document in self._deleted}
        while True:
            size = len(self._documents)
            often = min(OFTEN_CHANGED, size) if self._chance.random() < 0.5 else size
            document = self._documents[self._chance.randrange(often)]
            if document.id not in gone or len(gone) >= often:
                return document


def changes(limit: int, pause_s: float) -> Iterator[DocumentChange]:
    """The corpus without a pause, then the trickle with `pause_s` between changes, endlessly."""
    published: list[Docstring] = []
    for document in docstrings(limit):
        if len(published) < TRICKLED_DOCUMENTS:
            published.append(document)
        yield upsert(document)
    if not published:
        return
    trickle = Trickle(published, random.Random(0))  # noqa: S311
    pause = threading.Event()
    while True:
        pause.wait(pause_s)
        yield trickle.next()


@click.command()
@click.option("--documents", default=2000, show_default=True, type=click.IntRange(min=1), help="How many docstrings.")
@click.option("--pause", "pause_s", default=0.5, show_default=True, type=float, help="Seconds between later changes.")
def feed(documents: int, pause_s: float) -> None:
    """Publish docstrings, then change some of them for ever; the settings say where to."""
    publisher = subprocess.Popen(
        tied(headrace_command("publish", "-", "--quiet"), signal.SIGKILL),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # its summary; errors go to stderr
        process_group=0,
    )
    assert publisher.stdin is not None
    try:
        with until_stopped():
            for change in changes(documents, pause_s):
                publisher.stdin.write(change.encode() + b"\n")
                publisher.stdin.flush()
    except BrokenPipeError:
        sys.exit(f"headrace publish ended with status {publisher.wait()}")
    finally:
        _finish(publisher)


def _finish(publisher: subprocess.Popen[bytes]) -> None:
    """End of input: the publisher confirms what it has and ends."""
    assert publisher.stdin is not None
    try:
        publisher.stdin.close()
        publisher.wait(3)
    except (BrokenPipeError, subprocess.TimeoutExpired):
        stop(publisher, 1)


if __name__ == "__main__":
    feed()
