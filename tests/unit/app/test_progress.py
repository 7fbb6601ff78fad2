"""What a command shows of how far it is."""

from __future__ import annotations

import pytest

from app.cli import progress as shown
from app.cli.progress import progress


def test_away_from_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress("reading letters", 4000) as advance:
        advance(1000)
    assert capsys.readouterr().err == "", "what is short shows nothing"
    monkeypatch.setattr(shown, "LINE_EVERY_S", 0)
    with progress("reading letters", 4000) as advance:
        advance(1000)
        advance(500)
    assert capsys.readouterr() == ("", "reading letters: 1,000 of 4,000\nreading letters: 1,500 of 4,000\n")


def test_on_a_terminal_a_bar_goes_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress("reading letters", 4000) as advance:
        advance(4000)
    told = capsys.readouterr()
    assert told.out == ""
    assert "reading letters" in told.err
    assert "4000/4000" in told.err
