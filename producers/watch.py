"""A watched folder: what is there, then an upsert for each file that comes or changes, a delete for each that goes."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from producers.changes import BadInput, Item
from producers.files import FileReader, find_documents, is_document
from schemas.errors import Fatal

# Changes are handed over once the folder was quiet for this long: short, as every file counts at once, yet long
# enough for an editor to write, rename and remove its temporary files.
_QUIET_MS = 50
_LONGEST_WAIT_MS = 500  # … but no later than this under steady change
_WAKE_MS = 500  # how often an idle wait looks up
_RESCAN_S = 60.0  # the system drops events when too many are waiting: the whole folder is compared this often

Stamp = tuple[int, int]  # modification time in ns and size: another one means that the file was written


def watch_folder(folder: Path, reader: FileReader, *, rescan_s: float = _RESCAN_S) -> Iterator[Item | None]:
    """Yields None once in a while when nothing changed. Never ends by itself; Ctrl-C raises KeyboardInterrupt here.

    Files that went while nobody watched are not noticed. Raises Fatal if the folder itself goes away.
    """
    folder = folder.resolve()  # some systems report changes under the resolved path only
    watched = _Watched(folder, reader)
    events = _events(folder)
    next(events)  # the watch stands before the folder is read: no change falls between the two
    yield from watched.rescan()
    yield None
    scanned = time.monotonic()
    for paths in events:
        yield from watched.refresh(paths)
        yield None
        if time.monotonic() - scanned >= rescan_s:
            yield from watched.rescan()
            scanned = time.monotonic()


class _Watched:
    """Which files were published, and as they were when. What is on disk decides, not what an event says of it."""

    def __init__(self, folder: Path, reader: FileReader) -> None:
        self._folder, self._reader = folder, reader
        self._stamps: dict[Path, Stamp] = {}

    def rescan(self) -> Iterator[Item]:
        """The changes of the whole folder since it was last looked at."""
        yield from self._changed(self._folder)
        yield from self._removed(known for known in self._stamps if not known.exists())

    def refresh(self, paths: Iterable[Path]) -> Iterator[Item]:
        """The changes of these files and folders. Upserts come first: a renamed document is never absent."""
        missing = set()
        for path in sorted(paths):
            if path.exists():
                yield from self._changed(path)
            else:
                missing.add(path)
        if missing or not self._folder.is_dir():
            yield from self._removed(self._known_within(missing))

    def _changed(self, path: Path) -> Iterator[Item]:
        present, bad = self._documents_at(path)
        yield from bad
        for file in present:
            try:
                status = file.stat()
            except OSError:
                continue  # gone again: the next event says so
            stamp = (status.st_mtime_ns, status.st_size)
            if self._stamps.get(file) != stamp:
                self._stamps[file] = stamp
                yield self._reader.read(file, self._relative(file))

    def _documents_at(self, path: Path) -> tuple[list[Path], list[BadInput]]:
        if any(part.startswith(".") for part in path.relative_to(self._folder).parts):
            return [], []
        if path.is_dir():
            return ([], []) if path.is_symlink() else find_documents(path)
        return ([path], []) if is_document(path.name) else ([], [])

    def _known_within(self, missing: set[Path]) -> list[Path]:
        """Files that are gone; a folder that is moved away tells of itself only, not of what was in it."""
        if missing <= self._stamps.keys():
            return sorted(missing)
        return [known for known in self._stamps if known in missing or not missing.isdisjoint(known.parents)]

    def _removed(self, paths: Iterable[Path]) -> Iterator[Item]:
        gone = list(paths)
        if not self._folder.is_dir():  # then all seem gone: that is no wish to delete them
            raise Fatal(f"{self._folder} is gone: nothing is left to watch")
        for path in gone:
            del self._stamps[path]
            yield self._reader.removal(path, self._relative(path))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def check_watch() -> None:
    """Raises Fatal if watchfiles is not installed."""
    if importlib.util.find_spec("watchfiles") is None:
        raise Fatal("--watch needs watchfiles: pip install 'headrace[watch]'")


def _events(folder: Path) -> Iterator[list[Path]]:
    """Changed paths, again and again; an empty list when nothing changed for a while. After the first it watches."""
    from watchfiles import watch

    try:
        for found in watch(
            folder,
            watch_filter=None,
            debounce=_LONGEST_WAIT_MS,
            step=_QUIET_MS,
            rust_timeout=_WAKE_MS,
            yield_on_timeout=True,
            raise_interrupt=True,
            ignore_permission_denied=True,
        ):
            yield [Path(path) for _, path in found]
    except (OSError, RuntimeError) as error:  # too many folders for the system, for example
        raise Fatal(f"{folder} cannot be watched: {error}") from error
