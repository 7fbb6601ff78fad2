"""Real text that is on every machine with Python: the docstrings of the standard library and the installed packages."""

from __future__ import annotations

import ast
import random
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

MIN_CHARS = 40
SEED = 20  # any number: the order must be mixed, and the same on every run
# Folders whose docstrings tell readers nothing.
_SKIPPED = {
    "__pycache__",
    "test",
    "tests",
    "testing",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "_vendor",
}
# Files that people know and ask about come first, so that the first questions have good answers early.
_FIRST = (
    "json/__init__.py",
    "datetime.py",
    "pathlib.py",
    "shutil.py",
    "random.py",
    "heapq.py",
    "textwrap.py",
    "tempfile.py",
    "threading.py",
    "csv.py",
    "urllib/parse.py",
    "zipfile.py",
)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Docstring:
    """One document. `id` is `json/decoder.py:JSONDecoder.decode`; `title` is `json.decoder.JSONDecoder.decode`."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]


def docstrings(limit: int | None = None, roots: list[tuple[Path, bool]] | None = None) -> Iterator[Docstring]:
    """Docstrings of at least MIN_CHARS, read lazily and without importing anything they come from.

    The order is mixed (files of the standard library and of packages alternate) and the same on every run on the
    same installation. limit: how many at most. roots: folders to read, each with whether it is the
    standard library; default: those of this interpreter. Files that do not parse are left out; ids are unique.
    """
    found = chain.from_iterable(_docstrings_of(*file) for file in _mixed(roots or installed_roots()))
    return islice(found, limit)


def installed_roots() -> list[tuple[Path, bool]]:
    """The standard library and the folder of installed packages of this interpreter."""
    paths = sysconfig.get_paths()
    packages = dict.fromkeys((Path(paths["purelib"]), Path(paths["platlib"])))
    return [(Path(paths["stdlib"]), True), *((folder, False) for folder in packages)]


def _mixed(roots: list[tuple[Path, bool]]) -> Iterator[tuple[Path, Path, bool]]:
    """(root, file, stdlib): the well-known ones, then shuffled, alternating between standard library and packages."""
    shuffle = random.Random(SEED).shuffle  # noqa: S311
    rank = {path: position for position, path in enumerate(_FIRST)}
    sides: dict[bool, list[tuple[Path, Path, bool]]] = {True: [], False: []}
    for root, stdlib in roots:
        files = _sources(root)
        shuffle(files)
        files.sort(key=lambda file: rank.get(file.relative_to(root).as_posix(), len(rank)))
        sides[stdlib].extend((root, file, stdlib) for file in files)
    known = [item for item in sides[True] if _path(item) in rank]
    alternating = filter(None, chain.from_iterable(zip_longest(sides[True], sides[False])))
    read = set()
    for item in chain(known, alternating):
        if _path(item) not in read:  # an id is made of it
            read.add(_path(item))
            yield item


def _path(item: tuple[Path, Path, bool]) -> str:
    root, file, _ = item
    return file.relative_to(root).as_posix()


def _sources(root: Path) -> list[Path]:
    """All Python files under a folder, sorted; no links, so that nothing is read twice."""
    found = []
    folders = [root]
    while folders:
        try:
            entries = list(folders.pop().iterdir())
        except OSError:
            continue
        for entry in entries:
            if entry.is_symlink():
                continue
            if entry.suffix == ".py":
                found.append(entry)
            elif entry.name not in _SKIPPED and entry.is_dir():
                folders.append(entry)
    return sorted(found)


def _docstrings_of(root: Path, file: Path, stdlib: bool) -> Iterator[Docstring]:
    try:
        with warnings.catch_warnings(), tokenize.open(file) as source:
            warnings.simplefilter("ignore")  # invalid escapes and the like in other people's code
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    path = file.relative_to(root).as_posix()
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    seen = set()
    for qualname, node in _documented(tree):
        text = ast.get_docstring(node)
        if text is None or len(text) < MIN_CHARS or not _is_unicode(text) or qualname in seen:
            continue
        seen.add(qualname)
        yield Docstring(
            id=f"{path}:{qualname}" if qualname else path,
            title=f"{module}.{qualname}" if qualname else module,
            text=text,
            metadata={
                "package": module.partition(".")[0],
                "module": module,
                "kind": _kind(node),
                "stdlib": stdlib,
                "line": getattr(node, "lineno", 1),
            },
        )


def _documented(tree: ast.Module) -> Iterator[tuple[str, Documented]]:
    """Everything in the module that can have a docstring, with its qualified name, from the top down."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, Documented):
            yield name, node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue  # functions inside functions are nobody's interface
        for child in reversed(list(ast.iter_child_nodes(node))):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                waiting.append((f"{name}.{child.name}" if name else child.name, child))
            elif isinstance(child, ast.If | ast.Try):
                waiting.append((name, child))  # definitions under a condition


def _kind(node: Documented) -> str:
    if isinstance(node, ast.Module):
        return "module"
    return "class" if isinstance(node, ast.ClassDef) else "function"


def _is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: an escape in a docstring may be half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
