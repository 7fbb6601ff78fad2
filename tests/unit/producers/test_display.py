from __future__ import annotations

import io
import sys

import pytest

from app.kafka.producer import Position
from producers import display
from producers.changes import BadInput, Change
from producers.display import Display
from producers.tally import Tally, summary_text
from schemas.document_change import DocumentChange
from schemas.errors import BrokerUnavailable, Rejected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def item(document_id: str = "a") -> Change:
    return Change(DocumentChange(id=document_id, text="x"), "in.jsonl:1")


def test_a_terminal_shows_documents_rate_and_errors_and_errors_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(display, "_BAR_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Display(total_bytes=200, quiet=False) as shown:
        shown.tally.reporter(item())(Position("t", 0, 1), None)
        shown.tally.bad_input(BadInput("[b]in.jsonl:2", "is [bad]"))
        shown.advance(100)
        shown.tick()
    assert "1 documents" in terminal.getvalue()
    assert "/s  1 errors" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
    assert "[b]in.jsonl:2: is [bad]" in terminal.getvalue()


def test_quiet_shows_no_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display(total_bytes=0, quiet=True) as shown:
        shown.tick()
    assert terminal.getvalue() == ""


def test_a_tally_tells_a_refused_record_from_a_lost_kafka() -> None:
    said: list[str] = []
    tally = Tally(said.append)
    tally.reporter(item())(None, Rejected("too large"))
    assert (tally.failed, tally.kafka_lost) == (1, False)
    tally.reporter(item("b"))(None, BrokerUnavailable("timed out"))
    assert (tally.failed, tally.kafka_lost, tally.clean) == (2, True, False)
    assert said == [
        "in.jsonl:1: 'a' was not published: too large",
        "in.jsonl:1: 'b' was not published: timed out",
    ]


def test_a_summary_keeps_the_last_offset_of_each_partition_and_says_what_is_unconfirmed() -> None:
    tally = Tally(lambda _: None)
    for partition, offset in ((10, 3), (2, 7), (2, 6)):
        tally.reporter(item())(Position("t", partition, offset), None)
    tally.stopped = "interrupted"
    tally.end(unconfirmed=4)
    summary = tally.summary("t")
    assert summary["last_offsets"] == {"2": 7, "10": 3}
    text = summary_text(summary)
    assert text.startswith("published 3  failed 0  bad input 0  unconfirmed 4")
    assert text.endswith("stopped: interrupted\nlast offset per partition of t: 2:7  10:3")
