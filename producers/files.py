"""A folder of text, Markdown and HTML files: a file is a document, its id is its path in the folder."""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producers.changes import MAX_ITEM_BYTES, Advance, BadInput, Change, Item
from producers.html import html_text
from schemas.document_change import parse_change
from schemas.errors import InvalidChange

TEXT, MARKDOWN, HTML = frozenset({".txt"}), frozenset({".md", ".markdown"}), frozenset({".html", ".htm"})
EXTENSIONS = TEXT | MARKDOWN | HTML
_MAX_TITLE_CHARACTERS = 300
# Python knows them, no page is written in them; they fail in ways of their own or take quadratic time
_NO_ENCODINGS_OF_TEXT = frozenset(
    {"idna", "punycode", "undefined", "unicode-escape", "unicode_escape", "raw-unicode-escape", "raw_unicode_escape"}
)
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:.*\n)*?---[ \t]*(?:\n|$)")


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads single files as documents. delete: the change deletes the document, whatever the file holds."""

    id_prefix: str = ""
    delete: bool = False

    def document_id(self, relative: str) -> str:
        """The id of the file at this path in its folder, with `/` on every system."""
        return self.id_prefix + relative

    def read(self, path: Path, relative: str) -> Item:
        """The file as an upsert, with its modification time as event time; BadInput if it cannot be one."""
        try:
            if self.delete:
                return self.removal(path, relative)
            return Change(parse_change(self._fields(path, relative)), str(path))
        except InvalidChange as error:
            return BadInput(str(path), error.reason)
        except OSError as error:
            return BadInput(str(path), f"cannot be read: {error.strerror}")

    def removal(self, path: Path, relative: str) -> Item:
        """The delete of the file's document."""
        try:
            return Change(parse_change({"op": "delete", "id": self.document_id(relative)}), str(path))
        except InvalidChange as error:
            return BadInput(str(path), error.reason)

    def _fields(self, path: Path, relative: str) -> dict[str, Any]:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidChange("is not a regular file")
        if status.st_size > MAX_ITEM_BYTES:
            raise InvalidChange(f"the file is larger than {MAX_ITEM_BYTES} bytes")
        text, title = _text_and_title(path.read_bytes(), path.suffix.lower())
        fields = {
            "id": self.document_id(relative),
            "text": text,
            "title": (title or path.name)[:_MAX_TITLE_CHARACTERS],
            "metadata": {"path": relative, "extension": path.suffix.lower().removeprefix(".")},
        }
        return fields | ({"event_time": round(status.st_mtime * 1000)} if status.st_mtime >= 0 else {})


def is_document(name: str) -> bool:
    """Whether a file of this name is published: by extension, hidden ones are not."""
    return not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS


def find_documents(folder: Path) -> tuple[list[Path], list[BadInput]]:
    """All document files below `folder`, sorted, and the folders that cannot be read.

    Hidden files and folders are left out, links to folders are not followed.
    """
    found: list[Path] = []
    bad: list[BadInput] = []
    walk = os.walk(
        folder, onerror=lambda error: bad.append(BadInput(error.filename, f"cannot be read: {error.strerror}"))
    )
    for place, folders, names in walk:
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if is_document(name)]
    return sorted(found), bad


def read_folder(folder: Path, reader: FileReader, advance: Advance) -> Iterator[Item]:
    """Every document of the folder."""
    paths, bad = find_documents(folder)
    yield from bad
    for path in paths:
        yield reader.read(path, path.relative_to(folder).as_posix())
        advance(size_bytes(path))


def size_bytes(path: Path) -> int:
    """The size of a file, 0 if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _text_and_title(content: bytes, extension: str) -> tuple[str, str | None]:
    text = _decode(content, extension)
    if extension in HTML:
        return html_text(text)
    return text, _markdown_title(text) if extension in MARKDOWN else None


def _decode(content: bytes, extension: str) -> str:
    """UTF-8 with or without BOM; HTML may name another encoding in a <meta>. Raises InvalidChange."""
    encoding = "utf-8-sig"
    if extension in HTML and not content.startswith(b"\xef\xbb\xbf"):
        declared = _CHARSET.search(content[:1024])
        encoding = declared.group(1).decode() if declared else encoding
    try:
        if codecs.lookup(encoding).name in _NO_ENCODINGS_OF_TEXT:
            raise LookupError(encoding)
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidChange(f"is not {encoding.removesuffix('-sig').upper()}: byte {error.start}") from error
    except LookupError as error:
        raise InvalidChange(f"names the unknown encoding {encoding!r}") from error


def _markdown_title(text: str) -> str | None:
    """`title:` of the front matter, else the first heading (`# …`, or underlined with = or -) outside of code."""
    front = _FRONT_MATTER.match(text)
    if front:
        title = re.search(r"^title:[ \t]*(.+?)[ \t]*$", front.group(), re.MULTILINE)
        if title:
            return title.group(1).strip("\"'")
        text = text[front.end() :]
    fenced, previous = False, ""
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            heading = re.match(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$", line)
            if heading and heading.group(1):
                return heading.group(1)
            if previous and re.fullmatch(r" {0,3}(=+|--+)[ \t]*", line):
                return previous
        previous = "" if fenced else line.strip()
    return None
