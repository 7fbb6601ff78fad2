from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from app.settings import Settings
from producers.changes import Change, Item
from producers.display import Display
from producers.publisher import DocumentPublisher
from producers.pump import Interrupt, pump
from schemas.document_change import DocumentChange
from schemas.errors import Fatal
from tests.unit.producers.broker import read_topic


def documents(count: int) -> Iterator[Item]:
    for number in range(count):
        yield Change(DocumentChange(id=str(number), text="x"), f"in:{number + 1}")


def run(items: Iterator[Item | None], settings: Settings) -> tuple[int, Display]:
    display = Display(total_bytes=0, quiet=True)
    with DocumentPublisher(settings) as publisher:
        return pump(items, publisher, display, strict=False, wait_s=20), display


def test_ctrl_c_while_reading_confirms_what_was_sent_and_has_status_130(settings: Settings) -> None:
    def interrupted() -> Iterator[Item]:
        yield from documents(50)
        os.kill(os.getpid(), signal.SIGINT)
        yield from documents(50)

    before = signal.getsignal(signal.SIGINT)
    status, display = run(interrupted(), settings)
    assert (status, display.tally.published, display.tally.stopped) == (130, 50, "interrupted")
    assert signal.getsignal(signal.SIGINT) is before
    read_topic(settings, 50)


def test_an_input_that_breaks_off_confirms_what_was_sent_and_has_status_1(settings: Settings) -> None:
    def broken() -> Iterator[Item]:
        yield from documents(50)
        raise Fatal("in.parquet is damaged after row 50")

    status, display = run(broken(), settings)
    assert (status, display.tally.published) == (1, 50)
    assert display.tally.stopped == "in.parquet is damaged after row 50"


def test_an_idle_source_is_no_change(settings: Settings) -> None:
    status, display = run(iter([None, *documents(1), None]), settings)
    assert (status, display.tally.published) == (0, 1)


def test_a_second_signal_is_noted_and_raises_nothing() -> None:
    with Interrupt() as interrupt:
        interrupt.stop_raising()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert (interrupt.count, interrupt.signal_number) == (2, signal.SIGTERM)
