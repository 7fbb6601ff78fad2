"""A million short pieces of real English with their vectors, embedded once and kept: `python -m bench.vectors`.

The text is what lies on the machine: docstrings, comments and documents of the standard library and the installed
packages. It is cut and written down before the first piece is embedded, so a package that changes later changes
nothing. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, overload

import click
import numpy as np
from numpy.typing import NDArray

from app.local.console import Console
from app.local.corpus import docstrings, installed_roots
from app.model.folder import ModelFolder
from app.model.load import load_embedder
from app.model.source import find_model, fingerprint
from app.settings import load_settings
from schemas.errors import HeadraceError, ServiceMissing

CACHE = Path(__file__).parents[1] / ".cache" / "bench-vectors"
QUERY_COUNT = 2_000
MOST_COUNT = 1_000_000
# The longest pieces that give a million and some to spare: at most 9 words give 989,500, 8 give 1,071,900.
MOST_WORDS, LEAST_WORDS = 8, 4
SEED = 22  # any number: the order must be mixed, and the same on every run
BLOCK_ROWS = 8_192  # the embedder sorts what one call gives it by length: little padding is left beyond its own steps
_RULES = "1"  # to be raised when what follows cuts differently
_MOST_FILE_BYTES = 5_000_000  # beyond that a file is data
_NEWS_S = 60.0

_PYTHON = frozenset({".py", ".pyi"})
_DOCUMENTS = frozenset({".md", ".rst", ".txt"})
_SUFFIXES = _PYTHON | _DOCUMENTS | {".c", ".cpp", ".cuh", ".h", ".hpp"}
# sentences; paragraphs; items of lists
_END = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*(?=[-*>|:]|\d+\.)")
_WORD = re.compile(r"[A-Za-z][a-z'’-]*[.,;:!?)]*$")
_WORDS_RATIO = 0.6  # of a piece that is English rather than code
_HASHES = re.compile(r"((?:^[ \t]*#[^\n]*\n)+)|[ \t]#[ \t]([^\n]*)", re.MULTILINE)
_SLASHES = re.compile(r"((?:^[ \t]*//[^\n]*\n)+)|/\*(.*?)\*/|//([^\n]*)", re.DOTALL | re.MULTILINE)
_MARGIN = re.compile(r"^[ \t]*[#*/!<]+[ \t]?", re.MULTILINE)


class Lines(Sequence[str]):
    """Lines of a file, each decoded when it is asked for."""

    def __init__(self, file: Path, skip: int, count: int | None) -> None:
        """skip: lines left out at the beginning. count: None for all others. Raises ServiceMissing for too few."""
        self._bytes = file.read_bytes()
        ends = np.flatnonzero(np.frombuffer(self._bytes, np.uint8) == ord("\n"))
        count = len(ends) - skip if count is None else count
        if len(ends) < skip + count:
            raise ServiceMissing(
                f"{count:,} pieces were asked for, and this machine's text has {len(ends) - skip:,}: "
                f"install the whole set (`make test`), remove {file.parent} and try again"
            )
        self._borders = np.concatenate(([-1], ends))[skip : skip + count + 1]

    def __len__(self) -> int:
        return len(self._borders) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[position] for position in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        return self._bytes[self._borders[at] + 1 : self._borders[at + 1]].decode()


@dataclass(frozen=True, slots=True)
class BenchVectors:
    """texts: one for each vector. vectors: shape (count, dim), float16. queries: shape (QUERY_COUNT, dim), float32,
    of pieces that are not among the texts. All have unit length as far as float16 can tell (within 1e-3).

    folder: where all of it lies; what is derived from it may be kept there.
    """

    folder: Path
    texts: Sequence[str]
    vectors: NDArray[np.float16]
    queries: NDArray[np.float32]


class MixedTexts(Sequence[str]):
    """The texts, and for each mixture the text of its first half."""

    def __init__(self, texts: Sequence[str], first: NDArray[np.int64]) -> None:
        self._texts = texts
        self._first = first

    def __len__(self) -> int:
        return len(self._texts) + len(self._first)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        return self._texts[at if at < len(self._texts) else int(self._first[at - len(self._texts)])]


def mixed(data: BenchVectors, count: int) -> BenchVectors:
    """As many as are asked for: beyond the embedded ones, 0.8 of one and 0.6 of another, scaled to unit length.

    They fill a space as real text does, and are not real text: recall among them is another one.
    """
    pairs = np.random.default_rng(SEED).integers(0, len(data.vectors), (2, count - len(data.vectors)))
    vectors = np.empty((count, data.vectors.shape[1]), np.float16)
    vectors[: len(data.vectors)] = data.vectors
    for at in range(0, pairs.shape[1], BLOCK_ROWS):
        first, second = pairs[:, at : at + BLOCK_ROWS]
        block = 0.8 * data.vectors[first].astype(np.float32) + 0.6 * data.vectors[second].astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        vectors[len(data.vectors) + at :][: len(first)] = block
    return BenchVectors(data.folder, MixedTexts(data.texts, pairs[0]), vectors, data.queries)


def bench_vectors(count: int, console: Console) -> BenchVectors:
    """The first `count` pieces of a fixed, mixed order; any beginning of it is a fair sample of the whole.

    What is not in the cache is embedded first, at some 200 pieces a second and core; progress goes to stderr.
    count: 1 to MOST_COUNT. Safe beside another process that does the same. Raises ModelMissing, and
    ServiceMissing when the machine has not that much text.
    """
    folder = _folder()
    pieces = folder / "pieces.txt"
    if not pieces.exists():
        console.step("cutting the English on this machine to pieces, 1 to 2 minutes")
        _write_pieces(pieces)
    texts = Lines(pieces, QUERY_COUNT, count)
    queries = folder / "queries.npy"
    files = [folder / f"block-{start // BLOCK_ROWS:04}.npy" for start in range(0, count, BLOCK_ROWS)]
    if not all(file.exists() for file in (queries, *files)):
        stored = Lines(pieces, QUERY_COUNT, None)
        parts = [stored[at : at + BLOCK_ROWS] for at in range(0, count, BLOCK_ROWS)]
        _embed([(queries, Lines(pieces, 0, QUERY_COUNT)[:]), *zip(files, parts, strict=True)])
    vectors = np.concatenate([np.load(file) for file in files])[:count]
    return BenchVectors(folder, texts, vectors, np.load(queries).astype(np.float32))


def _folder() -> Path:
    """Where the vectors of the configured model lie; another model or other rules have another folder."""
    settings = load_settings()
    model = ModelFolder(find_model(settings.model), settings.model)
    # its last part is the version of the chunker, which has no part in this
    name = fingerprint(model, int(model.config["hidden_size"])).rpartition("/")[0]
    of = (name, _RULES, MOST_WORDS, LEAST_WORDS, SEED, QUERY_COUNT, MOST_COUNT, BLOCK_ROWS)
    folder = CACHE / hashlib.sha256(repr(of).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _embed(parts: Sequence[tuple[Path, list[str]]]) -> None:
    """Write the vectors of each list of texts to its file, in that order; files that are there are left alone."""
    settings = load_settings()
    embedder = load_embedder(settings)
    missing = [part for part in parts if not part[0].exists()]
    progress = Progress(sum(len(texts) for _, texts in missing))
    for file, texts in missing:
        if not file.exists():  # another process may have been there
            with _whole(file) as part:
                np.save(part, _checked(embedder.embed(texts)).astype(np.float16))
        progress.add(len(texts))
    progress.end()


def _checked(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 1e-3:
        raise RuntimeError("the embedder gave vectors that are not of unit length")
    return vectors


class Progress:
    """Rate and time left on stderr: one line that is replaced on a terminal, else a line a minute."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._began = self._told = time.monotonic()

    def add(self, count: int) -> None:
        """So many pieces more have been embedded."""
        self._done += count
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not terminal and now - self._told < _NEWS_S and self._done < self._total:
            return
        self._told = now
        rate = self._done / (now - self._began)
        left_min = (self._total - self._done) / rate / 60
        text = f"embedded {self._done:,} of {self._total:,} pieces, {rate:.0f}/s, {left_min:.1f} minutes left"
        print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if sys.stderr.isatty():
            print(file=sys.stderr)


@contextmanager
def _whole(file: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when all of it is written."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as written:
            yield written
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _write_pieces(file: Path) -> None:
    """One piece a line, none twice: the queries, then the texts."""
    found = dict.fromkeys(piece for text in _english() for piece in _cut(text))
    # UTF-8 order is the same wherever the text was found first
    pieces = sorted(found)
    random.Random(SEED).shuffle(pieces)
    with _whole(file) as written:
        written.writelines(f"{piece}\n".encode() for piece in pieces[: QUERY_COUNT + MOST_COUNT])


def _cut(text: str) -> Iterator[str]:
    """Sentences, the longer ones in equal parts; what is short or looks like code is left out."""
    for sentence in _END.split(text):
        words = sentence.split()
        parts = -(-len(words) // MOST_WORDS)
        for part in range(parts):
            piece = words[part * len(words) // parts : (part + 1) * len(words) // parts]
            english = sum(1 for word in piece if _WORD.match(word))
            if len(piece) >= LEAST_WORDS and english >= _WORDS_RATIO * len(piece):
                yield " ".join(piece)


def _english() -> Iterator[str]:
    yield from (document.text for document in docstrings())
    for root, _ in installed_roots():
        for file in sorted(root.rglob("*")):
            inside = file.relative_to(root).parts
            if file.suffix not in _SUFFIXES or "site-packages" in inside or "__pycache__" in inside:
                continue
            try:
                if file.stat().st_size <= _MOST_FILE_BYTES:
                    yield from _prose(file.suffix, file.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # not text, or not UTF-8
                continue


def _prose(suffix: str, text: str) -> Iterator[str]:
    """What of a file is meant for people: all of a document, the comments of a program."""
    if suffix in _DOCUMENTS:
        yield text
        return
    for match in (_HASHES if suffix in _PYTHON else _SLASHES).finditer(text):
        yield _MARGIN.sub("", next(filter(None, match.groups()), ""))


@click.command()
@click.option("--count", default=100_000, show_default=True, type=click.IntRange(1, MOST_COUNT), help="Of vectors.")
def vectors(count: int) -> None:
    """Embed what is missing of so many pieces of text, to be used by benchmarks."""
    console = Console()
    try:
        made = bench_vectors(count, console)
    except HeadraceError as error:
        sys.exit(f"bench: {error}")
    rows, dim = made.vectors.shape
    console.step(f"{rows:,} vectors of {dim} dimensions and {len(made.queries):,} queries in {made.folder}")


if __name__ == "__main__":
    vectors()
