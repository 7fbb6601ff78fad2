from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from producers import watch
from producers.changes import BadInput, Change, Item
from producers.files import FileReader
from producers.watch import check_watch, watch_folder
from schemas.errors import Fatal


def take(items: Iterator[Item | None], count: int, within_s: float = 20) -> list[tuple[str, str]]:
    """The next `count` changes."""
    found: list[tuple[str, str]] = []
    deadline = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < deadline, found
        item = next(items)
        assert not isinstance(item, BadInput), item
        if isinstance(item, Change):
            found.append((item.change.op, item.change.id))
    return found


def idle(items: Iterator[Item | None]) -> None:
    assert next(items) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "docs" / "a.md").write_text("one")
    (tmp_path / "docs" / "sub" / "b.txt").write_text("two")
    return tmp_path / "docs"


@pytest.fixture
def items(folder: Path) -> Iterator[Iterator[Item | None]]:
    found = watch_folder(folder, FileReader())
    assert take(found, 2) == [("upsert", "a.md"), ("upsert", "sub/b.txt")]
    idle(found)
    yield found
    found.close()  # type: ignore[attr-defined]


def test_a_new_a_changed_and_a_removed_file_are_published(folder: Path, items: Iterator[Item | None]) -> None:
    (folder / "new.html").write_text("<p>x")
    assert take(items, 1) == [("upsert", "new.html")]
    (folder / "a.md").write_text("one, edited")
    assert take(items, 1) == [("upsert", "a.md")]
    (folder / "sub" / "b.txt").unlink()
    assert take(items, 1) == [("delete", "sub/b.txt")]


def test_a_renamed_file_appears_before_its_old_name_goes(folder: Path, items: Iterator[Item | None]) -> None:
    (folder / "a.md").rename(folder / "z.md")
    assert take(items, 2) == [("upsert", "z.md"), ("delete", "a.md")]


def test_a_folder_that_moves_away_takes_its_documents_along(folder: Path, items: Iterator[Item | None]) -> None:
    (folder / "sub").rename(folder.parent / "elsewhere")
    assert take(items, 1) == [("delete", "sub/b.txt")]
    (folder.parent / "elsewhere").rename(folder / "back")
    assert take(items, 1) == [("upsert", "back/b.txt")]


def test_other_files_hidden_ones_and_touched_ones_are_no_change(folder: Path, items: Iterator[Item | None]) -> None:
    (folder / "x.pdf").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "c.md").write_text("x")
    (folder / "a.md").chmod(0o600)
    (folder / "last.txt").write_text("x")
    assert take(items, 1) == [("upsert", "last.txt")]


def test_a_dropped_event_is_made_up_for_by_the_next_scan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_events", lambda _: iter([[]] * 5))
    items = watch_folder(folder, FileReader(), rescan_s=0)
    take(items, 2)
    idle(items)
    (folder / "a.md").unlink()
    (folder / "c.md").write_text("x")
    assert take(items, 2) == [("upsert", "c.md"), ("delete", "a.md")]


def test_a_watched_folder_that_goes_away_is_an_error(folder: Path, items: Iterator[Item | None]) -> None:
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(Fatal, match="is gone"):
        take(items, 1)


def test_without_watchfiles_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Fatal, match=r"headrace\[watch\]"):
        check_watch()
