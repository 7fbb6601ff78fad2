"""A shard on a disk that is really full: nothing is lost, searches go on, and so does it once there is room."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.shard.shard import Shard
from schemas.errors import StorageFull
from tests.unit.shard.parts import document, drain, found, open_shard, random_units
from tests.unit.shard.test_snapshot import save

TEXT = "lorem ipsum dolor sit amet " * 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system can only be mounted by root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(shard: Shard) -> int:
    """Apply transactions until the disk is full; returns the offset that does not fit."""
    vectors = random_units(1000, 1)
    for offset in range(1000):
        try:
            shard.apply([document(offset, f"d{offset}", vectors[offset], text=TEXT)])
        except StorageFull:
            return offset
    raise AssertionError("the disk did not become full")


def test_a_full_disk_stops_ingestion_alone_and_nothing_is_lost(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = open_shard(small_disk, write_buffer_rows=4)
    offset = fill(shard)
    assert 50 < offset < 1000
    vectors = random_units(1000, 1)
    for _ in range(3):  # tried again and again
        with pytest.raises(StorageFull, match="make room on its disk"):
            shard.apply([document(offset, f"d{offset}", vectors[offset], text=TEXT)])
    drain(shard)
    assert [found(shard, vectors[n], 1) for n in range(offset)] == [[f"d{n}"] for n in range(offset)]
    with caplog.at_level(logging.WARNING, "headrace.shard"):
        save(shard)
    assert "no snapshot of the graph could be written" in caplog.text
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    shard.apply([document(offset, f"d{offset}", vectors[offset], text=TEXT)])
    assert found(shard, vectors[offset], 1) == [f"d{offset}"]
    shard.close()
    again = open_shard(small_disk)
    assert (again.next_offset, again.status().documents) == (offset + 1, offset + 1)
    assert [found(again, vectors[n], 1) for n in range(offset + 1)] == [[f"d{n}"] for n in range(offset + 1)]
    again.close()


def test_a_shard_on_a_disk_that_is_read_only_is_refused_at_its_opening(small_disk: Path) -> None:
    open_shard(small_disk).close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises((OSError, StorageFull), match=r"[Rr]ead-only|cannot be written"):
        open_shard(small_disk)


def test_a_worker_that_ends_on_a_full_disk_starts_again_where_it_was(small_disk: Path) -> None:
    shard = open_shard(small_disk)
    offset = fill(shard)
    shard.close()
    again = open_shard(small_disk)
    assert again.next_offset == offset
    again.close()
