"""One run of `headrace publish`: items in, changes out, everything counted, and an orderly end on Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any

from producers.changes import BadInput, Item
from producers.display import Display
from producers.publisher import DocumentPublisher
from producers.tally import Tally
from schemas.errors import HeadraceError, Rejected

_INTERRUPTED_WAIT_S = 10.0  # how long what is under way may take to be confirmed after Ctrl-C


class Interrupt:
    """Ctrl-C and SIGTERM. While reading, the first raises KeyboardInterrupt; later ones are only noted."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.count = 0
        self._reading = True
        self._before: dict[int, Any] = {}

    def stop_raising(self) -> None:
        """From here on what was begun is brought to an end."""
        self._reading = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody listen
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal_number = number
        self.count += 1
        if self._reading:
            self._reading = False
            raise KeyboardInterrupt


def pump(
    items: Iterable[Item | None], publisher: DocumentPublisher, display: Display, *, strict: bool, wait_s: float
) -> int:
    """Publish all items and wait until every change is confirmed or has failed. Returns the exit status.

    strict: stop at the first bad input or failed delivery. Stops as well when Kafka no longer confirms. wait_s: how
    long the last confirmation may take. 0: all published; 1: not all, the tally says what; 128 + n: signal n.
    """
    tally = display.tally
    with Interrupt() as interrupt:
        try:
            _publish_all(items, publisher, display, strict=strict)
        except KeyboardInterrupt:
            tally.stopped = "interrupted"
        except HeadraceError as error:
            tally.stopped = str(error)
            tally.say(tally.stopped)
        interrupt.stop_raising()
        tally.end(_drain(publisher, display, interrupt, wait_s))
        if interrupt.signal_number is not None:
            tally.stopped = "interrupted"
            return 128 + interrupt.signal_number
    return 0 if tally.clean else 1


def _publish_all(items: Iterable[Item | None], publisher: DocumentPublisher, display: Display, *, strict: bool) -> None:
    tally, where = display.tally, "the start"
    for item in items:
        if item is not None:
            where = item.where
            _publish(item, publisher, tally)
        display.tick()
        if tally.kafka_lost:
            tally.stopped = f"at {where}, as Kafka does not confirm: publish again what was not published"
            return
        if strict and (tally.bad_inputs or tally.failed):
            tally.stopped = f"at {where}, the first error (--strict)"
            return


def _publish(item: Item, publisher: DocumentPublisher, tally: Tally) -> None:
    if isinstance(item, BadInput):
        tally.bad_input(item)
        return
    try:
        publisher.send(item.change, tally.reporter(item))
    except Rejected as error:
        tally.bad_input(BadInput(item.where, error.reason))


def _drain(publisher: DocumentPublisher, display: Display, interrupt: Interrupt, wait_s: float) -> int:
    """In short waits, so that the display goes on and Ctrl-C is heard; a second Ctrl-C waits no longer."""
    started, interrupted = time.monotonic(), None
    while left := publisher.flush(0.2):
        display.tick()
        now = time.monotonic()
        if interrupt.count and interrupted is None:
            interrupted = now
        patience = _INTERRUPTED_WAIT_S if interrupted is not None else wait_s
        if interrupt.count > 1 or now - (interrupted or started) > patience:
            break
    return left
