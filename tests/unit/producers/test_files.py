from __future__ import annotations

import os
from pathlib import Path

import pytest

from producers.changes import Change
from producers.files import FileReader, find_documents, is_document, read_folder
from tests.unit.producers.sources import advance, bad, good


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_folder_is_read_with_paths_as_ids(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_txt="plain",
        sub__b_md="# Title\n\ntext",
        sub__c_HTML="<title>Page</title><p>hi</p>",
        d_pdf="no",
        _hidden_md="no",
    )
    found = {change.id: change for change in good(read_folder(tmp_path, FileReader(id_prefix="wiki/"), advance))}
    assert {name: (change.title, change.text) for name, change in found.items()} == {
        "wiki/a.txt": ("a.txt", "plain"),
        "wiki/sub/b.md": ("Title", "# Title\n\ntext"),
        "wiki/sub/c.HTML": ("Page", "hi"),
    }
    assert found["wiki/sub/b.md"].metadata == {"path": "sub/b.md", "extension": "md"}


def test_the_event_time_is_when_the_file_was_written(tmp_path: Path) -> None:
    write(tmp_path, a_txt="x")
    os.utime(tmp_path / "a.txt", (1_700_000_000, 1_700_000_000.5))
    (change,) = good(read_folder(tmp_path, FileReader(), advance))
    assert change.event_time == 1_700_000_000_500


def test_a_file_that_is_not_utf8_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(tmp_path, a_txt=b"caf\xe9", b_txt="ok\x00 nul", c_txt=b"\xef\xbb\xbfbom")
    items = list(read_folder(tmp_path, FileReader(), advance))
    assert bad(items) == {str(tmp_path / "a.txt"): "is not UTF-8: byte 3"}
    assert [item.change.text for item in items if isinstance(item, Change)] == ["ok\x00 nul", "bom"]


def test_a_page_may_name_its_encoding(tmp_path: Path) -> None:
    write(tmp_path, a_html='<meta charset="iso-8859-1"><p>café'.encode("latin-1"), b_html=b"<meta charset=x-none>")
    items = list(read_folder(tmp_path, FileReader(), advance))
    assert [item.change.text for item in items if isinstance(item, Change)] == ["café"]
    assert bad(items) == {str(tmp_path / "b.html"): "names the unknown encoding 'x-none'"}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## Second level ##\n", "Second level"),
        ("```\n# code\n```\nReal\n====\n", "Real"),
        ("---\ntitle: 'From the front'\n---\n# Heading\n", "From the front"),
        ("---\nlang: en\n---\n# Heading\n", "Heading"),
        ("#hashtag\n\n---\n", "a.md"),
        ("", "a.md"),
        ("# " + "x" * 5000, "x" * 300),
    ],
)
def test_the_title_of_markdown_is_its_first_heading(tmp_path: Path, text: str, title: str) -> None:
    write(tmp_path, a_md=text)
    (change,) = good(read_folder(tmp_path, FileReader(), advance))
    assert change.title == title


def test_deleting_a_folder_deletes_its_documents_whatever_they_hold(tmp_path: Path) -> None:
    write(tmp_path, a_txt=b"\xff", b_md="x")
    found = good(read_folder(tmp_path, FileReader(delete=True), advance))
    assert [(change.op, change.id) for change in found] == [("delete", "a.txt"), ("delete", "b.md")]


def test_pipes_and_links_to_folders_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, sub__a_txt="x")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    items = list(read_folder(tmp_path, FileReader(), advance))
    assert bad(items) == {str(tmp_path / "pipe.txt"): "is not a regular file"}
    assert [item.change.id for item in items if isinstance(item, Change)] == ["sub/a.txt"]


def test_a_file_that_goes_between_listing_and_reading_is_bad_input(tmp_path: Path) -> None:
    write(tmp_path, a_txt="x")
    items = read_folder(tmp_path, FileReader(), advance)
    (found, _) = find_documents(tmp_path)
    found[0].unlink()
    assert list(items) == []
    assert "cannot be read" in bad([FileReader().read(found[0], "a.txt")])[str(found[0])]


def test_a_name_that_is_not_unicode_is_bad_input(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.txt")).write_text("x")
    assert len(bad(read_folder(tmp_path, FileReader(), advance))) == 1


def test_documents_are_known_by_their_extension() -> None:
    assert [name for name in ("a.md", "A.HTM", ".md", "a.json", "a", "x.markdown") if is_document(name)] == [
        *("a.md", "A.HTM", "x.markdown")
    ]
