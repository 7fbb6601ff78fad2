"""A graph on disk, so that a start need not build it anew: one file, written whole, checked whole.

Layout, little-endian:

    0   4   magic b"HRG1" (the digit is the version)
    4   4   length of the JSON part in bytes
    8   4   CRC-32 of the JSON part
    12  …   JSON: facts (see SnapshotFacts), parameters of the graph, and per section its name, dtype, bytes, CRC-32
    …   …   the sections, one after another

It is derived: whatever is wrong with it, the rows have everything.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from app.crash import crash_point

log = logging.getLogger("headrace.shard")

MAGIC = b"HRG1"
_HEAD = struct.Struct("<4sII")
_MOST_JSON_BYTES = 2**20
_CHUNK_BYTES = 2**24


class SnapshotUnusable(Exception):
    """The file is damaged or belongs to something else; the message says which."""


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What a snapshot is of. file_id: of the shard file whose labels it uses. next_offset: up to where it was built."""

    file_id: str
    fingerprint: str
    dim: int
    m: int
    ef_construction: int
    next_offset: int
    points: int
    written_ms: int


def write_snapshot(path: Path, facts: SnapshotFacts, state: dict[str, Any]) -> int:
    """Write `path` anew, atomically; returns its bytes. Raises OSError, and leaves what was there.

    state: see Graph.state.
    """
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    head = orjson.dumps(
        {
            "facts": asdict(facts),
            "parameters": {name: value for name, value in state.items() if name not in arrays},
            "sections": [_section(name, array) for name, array in arrays.items()],
        }
    )
    size = _HEAD.size + len(head) + sum(array.nbytes for array in arrays.values())
    if shutil.disk_usage(path.parent).free < 2 * size:
        raise OSError(f"{size / 2**20:.0f} MiB are to be written, and the disk has less than twice that free")
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(_HEAD.pack(MAGIC, len(head), zlib.crc32(head)) + head)
            for array in arrays.values():
                _write(file, array.data.cast("B"))
            file.flush()
            os.fsync(file.fileno())
        crash_point("index.snapshot_written")
        fresh.replace(path)
        crash_point("index.snapshot_renamed")
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return size


def read_snapshot(path: Path) -> tuple[SnapshotFacts, dict[str, Any]]:
    """What was written. Raises FileNotFoundError, SnapshotUnusable."""
    with path.open("rb") as file:
        head = _read_head(file)
        try:
            facts, state = _facts(head["facts"]), dict(head["parameters"])
            for section in head["sections"]:
                state[section["name"]] = _read_section(file, section)
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotUnusable(f"its head does not parse ({error})") from error
        if file.read(1):
            raise SnapshotUnusable("it is longer than its head says")
    return facts, state


def set_aside(path: Path, reason: str) -> None:
    """Keep a file that cannot be used under another name, replacing the last one that was kept."""
    kept = path.with_name(f"{path.name}.unusable")
    if kept.is_dir():
        shutil.rmtree(kept)
    else:
        kept.unlink(missing_ok=True)
    log.warning("%s: %s. Keeping it as %s; the graph is built anew from the rows.", path, reason, kept.name)
    path.rename(kept)


def _section(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    checksum = zlib.crc32(array.data.cast("B")) if array.nbytes else 0
    return {"name": name, "dtype": array.dtype.str, "bytes": array.nbytes, "crc32": checksum}


def _write(file: IO[bytes], content: memoryview) -> None:
    for at in range(0, len(content), _CHUNK_BYTES):
        file.write(content[at : at + _CHUNK_BYTES])


def _read_head(file: IO[bytes]) -> dict[str, Any]:
    start = file.read(_HEAD.size)
    if len(start) < _HEAD.size or start[:4] != MAGIC:
        raise SnapshotUnusable("it is not a snapshot of a known version")
    _, length, checksum = _HEAD.unpack(start)
    content = file.read(min(length, _MOST_JSON_BYTES))
    if len(content) != length or zlib.crc32(content) != checksum:
        raise SnapshotUnusable("its head is damaged")
    try:
        head: dict[str, Any] = orjson.loads(content)
    except ValueError as error:
        raise SnapshotUnusable(f"its head is no JSON ({error})") from error
    return head


def _facts(given: dict[str, Any]) -> SnapshotFacts:
    facts = SnapshotFacts(**given)
    for name, value in asdict(facts).items():
        wanted = str if name in ("file_id", "fingerprint") else int
        if type(value) is not wanted:
            raise TypeError(f"{name} is {value!r}")
    return facts


def _read_section(file: IO[bytes], section: dict[str, Any]) -> np.ndarray[Any, Any]:
    dtype = np.dtype(section["dtype"])
    if dtype.kind not in "biuf" or section["bytes"] < 0 or section["bytes"] % dtype.itemsize:
        raise ValueError(f"{section['bytes']} bytes of {dtype} in {section['name']}")
    left = os.fstat(file.fileno()).st_size - file.tell()
    if section["bytes"] > left:
        raise SnapshotUnusable(f"it is truncated in {section['name']}")
    array = np.empty(section["bytes"] // dtype.itemsize, dtype)
    content = array.data.cast("B") if array.nbytes else memoryview(b"")
    read = 0
    while read < len(content):
        more = file.readinto(content[read : read + _CHUNK_BYTES])  # type: ignore[attr-defined]
        if not more:
            raise SnapshotUnusable(f"it is truncated in {section['name']}")
        read += more
    if zlib.crc32(content) != section["crc32"]:
        raise SnapshotUnusable(f"the checksum of {section['name']} does not match")
    return array
