"""From the paths of the command line to one stream of changes; what is wrong with them is said before the first."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from producers.changes import Advance, BadInput, Change, Fields, Item
from producers.files import EXTENSIONS, FileReader, find_documents, read_folder, size_bytes
from producers.jsonl import line_parser, read_jsonl
from producers.tables import check_csv, check_parquet, read_csv, read_parquet
from schemas.errors import Fatal

FORMATS = ("jsonl", "csv", "tsv", "parquet", "files")
_BY_EXTENSION = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    **dict.fromkeys(EXTENSIONS, "files"),
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Reading:
    """How inputs are read. format: of all of them; None: by extension. mapped: JSON lines are rows of `fields`."""

    fields: Fields = field(default_factory=Fields)
    mapped: bool = False
    format: str | None = None
    delimiter: str | None = None
    id_prefix: str = ""

    def delimiter_of(self, file_format: str) -> str:
        """The one given, else the format's own."""
        return self.delimiter or _DELIMITERS[file_format]


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to read: its format, its size in bytes, and how to start reading it."""

    name: str
    format: str
    size_bytes: int
    read: Callable[[Advance], Iterator[Item]]


def plan_inputs(paths: Iterable[str], reading: Reading) -> list[Input]:
    """Check every path, and the columns of every table. Raises Fatal about the first that cannot be read."""
    return [_stdin(reading) if path == STDIN else _at(Path(path), reading) for path in paths]


def read_inputs(inputs: Iterable[Input], advance: Advance) -> Iterator[Item]:
    """All changes of all inputs, one after the other.

    Ids of files are paths inside their folders: two folders can hold the same one. The second is a bad input, as
    it would silently replace the first.
    """
    taken: dict[str, str] = {}
    for source in inputs:
        for item in source.read(advance):
            if source.format == "files" and isinstance(item, Change):
                first = taken.setdefault(item.change.id, item.where)
                if first != item.where:
                    yield BadInput(item.where, f"has the same id as {first}: publish them apart, with --id-prefix")
                    continue
            yield item


def _at(path: Path, reading: Reading) -> Input:
    if not os.path.lexists(path):
        raise Fatal(f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise Fatal(f"{path} cannot be read: no permission, or a link to nothing")
    if path.is_dir():
        return _folder(path, reading)
    file_format = _format_of(path, reading)
    fields = reading.fields
    if file_format == "files":
        reader = FileReader(reading.id_prefix, fields.delete)
        return Input(str(path), file_format, size_bytes(path), lambda _: iter([reader.read(path, path.name)]))
    if file_format == "parquet":
        check_parquet(path, fields)
        return Input(str(path), file_format, size_bytes(path), lambda advance: read_parquet(path, fields, advance))
    if file_format in _DELIMITERS and path.is_file():
        check_csv(path, fields, reading.delimiter_of(file_format))
    return Input(str(path), file_format, size_bytes(path), lambda advance: _open(path, file_format, reading, advance))


def _folder(path: Path, reading: Reading) -> Input:
    if reading.format not in (None, "files"):
        raise Fatal(f"{path} is a folder: --format {reading.format} reads files, name them ({path}/*)")
    found, bad = find_documents(path)
    if not found and not bad:
        raise Fatal(f"{path} has no files to publish: it looks for {', '.join(sorted(EXTENSIONS))}, hidden ones not")
    reader = FileReader(reading.id_prefix, reading.fields.delete)
    size = sum(map(size_bytes, found))
    return Input(str(path), "files", size, lambda advance: read_folder(path, reader, advance))


def _format_of(path: Path, reading: Reading) -> str:
    file_format = reading.format or _BY_EXTENSION.get(path.suffix.lower())
    if file_format is None:
        raise Fatal(f"{path} is of unknown format: say --format {'|'.join(FORMATS)}")
    if file_format == "files" and reading.format is None and reading.fields.delete:
        raise Fatal(
            f"{path} with --delete can mean two things: --format jsonl if its lines are ids, "
            "--format files to delete the document that it is"
        )
    return file_format


def _open(path: Path, file_format: str, reading: Reading, advance: Advance) -> Iterator[Item]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise Fatal(f"{path} cannot be read: {error.strerror}") from error
    with file:
        if file_format == "jsonl":
            yield from read_jsonl(file, str(path), line_parser(reading.fields, mapped=reading.mapped), advance)
        else:
            delimiter = reading.delimiter_of(file_format)
            yield from read_csv(file, str(path), reading.fields, delimiter, advance)


def _stdin(reading: Reading) -> Input:
    file_format = reading.format or "jsonl"
    if file_format in ("parquet", "files"):
        raise Fatal(f"--format {file_format} cannot be read from a pipe: give it a path")

    def read(advance: Advance) -> Iterator[Item]:
        file = sys.stdin.buffer
        if file_format == "jsonl":
            return read_jsonl(file, "stdin", line_parser(reading.fields, mapped=reading.mapped), advance)
        return read_csv(file, "stdin", reading.fields, reading.delimiter_of(file_format), advance)

    return Input("stdin", file_format, 0, read)
