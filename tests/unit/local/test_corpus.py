"""The corpus: docstrings of this very installation, and of small trees made for a question."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import pytest

from app.local.corpus import MIN_CHARS, docstrings
from schemas.document_change import DocumentChange

LONG = "Does what a function of this name is expected to do, and nothing else."


def tree(root: Path, files: dict[str, str]) -> list[tuple[Path, bool]]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [(root, True)]


def test_the_well_known_modules_of_the_standard_library_come_first() -> None:
    first = next(docstrings(1))

    assert (first.id, first.title) == ("json/__init__.py", "json")
    assert first.metadata["stdlib"] is True


def test_order_is_the_same_on_every_run_and_mixes_both_sides() -> None:
    once, again = list(docstrings(600)), list(docstrings(600))

    assert [item.id for item in once] == [item.id for item in again]
    assert {item.metadata["stdlib"] for item in once} == {True, False}
    assert len({item.metadata["package"] for item in once}) > 10


def test_ids_are_unique_and_every_document_is_a_valid_change() -> None:
    found = list(docstrings(3000))

    assert len({item.id for item in found}) == len(found) == 3000
    for item in found:
        assert len(item.text) >= MIN_CHARS
        DocumentChange(op="upsert", id=item.id, title=item.title, text=item.text, metadata=item.metadata)


def test_reading_is_lazy_and_imports_nothing() -> None:
    before = set(sys.modules)

    assert len(list(islice(docstrings(), 200))) == 200
    assert not {name for name in set(sys.modules) - before if not name.startswith("encodings")}


def test_methods_classes_and_conditional_functions_are_found_under_their_qualified_names(tmp_path: Path) -> None:
    source = f'''"""{LONG}"""
if True:
    def chosen():
        """{LONG}"""
class Mill:
    """{LONG}"""
    async def grind(self):
        """
        {LONG}
            Indented.
        """
        def inner():
            """{LONG}"""
    def short(self):
        """Too short."""
'''
    found = {item.id: item for item in docstrings(roots=tree(tmp_path, {"water/mill.py": source}))}

    assert list(found) == [
        "water/mill.py",
        "water/mill.py:chosen",
        "water/mill.py:Mill",
        "water/mill.py:Mill.grind",
    ]
    grind = found["water/mill.py:Mill.grind"]
    assert grind.title == "water.mill.Mill.grind"
    assert grind.text == f"{LONG}\n    Indented."
    assert grind.metadata == {
        "package": "water",
        "module": "water.mill",
        "kind": "function",
        "stdlib": True,
        "line": 7,
    }


@pytest.mark.parametrize(
    "source",
    [
        "def (:",
        "x = '\0'",
        "# coding: no-such-codec\n",
        '"""' + "\\ud800 half a pair, which no UTF-8 can carry" + '"""',
    ],
    ids=["syntax error", "null byte", "unknown encoding", "lone surrogate"],
)
def test_a_file_that_cannot_be_used_is_left_out(tmp_path: Path, source: str) -> None:
    roots = tree(tmp_path, {"bad.py": source, "good.py": f'"""{LONG}"""'})

    assert [item.id for item in docstrings(roots=roots)] == ["good.py"]


def test_tests_and_links_are_not_read(tmp_path: Path) -> None:
    roots = tree(tmp_path, {"package/tests/test_a.py": f'"""{LONG}"""', "package/a.py": f'"""{LONG}"""'})
    (tmp_path / "link.py").symlink_to(tmp_path / "package" / "a.py")

    assert [item.id for item in docstrings(roots=roots)] == ["package/a.py"]
