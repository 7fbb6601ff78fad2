"""How much memory is left, as machine and control group tell it, and what is refused without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.shard import memory as module
from app.shard.memory import available_bytes
from app.shard.shards import Shards
from tests.unit.shard.parts import shard_settings

MIB = 2**20


class Machine:
    """Files as the kernel shows them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._meminfo = folder / "meminfo"
        groups = ((folder / "memory.max", folder / "memory.current", "inactive_file"),)
        old = folder / "memory"
        old.mkdir()
        groups += ((old / "memory.limit_in_bytes", old / "memory.usage_in_bytes", "total_inactive_file"),)
        monkeypatch.setattr(module, "_MEMINFO", self._meminfo)
        monkeypatch.setattr(module, "_CGROUPS", groups)

    def has(self, available_mib: int) -> None:
        text = f"MemTotal:       99999999 kB\nMemFree:          100 kB\nMemAvailable:  {available_mib * 1024} kB\n"
        self._meminfo.write_text(text)

    def group(self, limit: str, used: int, inactive: int) -> None:
        (self._folder / "memory.max").write_text(f"{limit}\n")
        (self._folder / "memory.current").write_text(f"{used}\n")
        stat = f"anon 5\nfile 7\ninactive_anon 1\ninactive_file {inactive}\nactive_file 2\n"
        (self._folder / "memory.stat").write_text(stat)

    def old_group(self, limit: int, used: int, inactive: int) -> None:
        (self._folder / "memory" / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (self._folder / "memory" / "memory.usage_in_bytes").write_text(f"{used}\n")
        stat = f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive}\n"
        (self._folder / "memory" / "memory.stat").write_text(stat)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_system_that_tells_nothing_is_not_guessed_at(machine: Machine) -> None:
    assert available_bytes() is None


def test_without_a_control_group_it_is_what_the_machine_has_available(machine: Machine) -> None:
    machine.has(300)
    assert available_bytes() == 300 * MIB


def test_a_meminfo_without_that_line_tells_nothing(machine: Machine) -> None:
    machine._meminfo.write_text("MemTotal: 5 kB\nMemAvailable: much\n")
    assert available_bytes() is None


def test_a_control_group_may_leave_less_than_the_machine_has(machine: Machine) -> None:
    machine.has(4000)
    machine.group(str(1000 * MIB), used=700 * MIB, inactive=100 * MIB)
    assert available_bytes() == 400 * MIB
    machine.has(50)
    assert available_bytes() == 50 * MIB


def test_a_control_group_without_a_limit_leaves_what_the_machine_has(machine: Machine) -> None:
    machine.has(300)
    machine.group("max", used=700 * MIB, inactive=0)
    assert available_bytes() == 300 * MIB


def test_control_groups_of_version_1_are_understood(machine: Machine) -> None:
    machine.old_group(1000 * MIB, used=900 * MIB, inactive=50 * MIB)
    assert available_bytes() == 150 * MIB
    machine.has(300)
    machine.old_group(2**63 - 4096, used=900 * MIB, inactive=0)  # unlimited
    assert available_bytes() == 300 * MIB


def test_this_machine_tells_something() -> None:
    left = available_bytes()
    assert left is not None
    assert left > 0


def test_less_than_the_reserve_is_refused_with_what_can_be_done(machine: Machine, tmp_path: Path) -> None:
    shards = Shards(shard_settings(tmp_path / "data", memory_reserve_mb=300), "epoch")
    try:
        assert shards.refusal() is None  # nobody knows
        machine.has(300)
        assert shards.refusal() is None
        machine.has(299)
        refusal = shards.refusal() or ""
        assert "only 299 MiB of memory are left (HEADRACE_MEMORY_RESERVE_MB=300)" in refusal
        assert "give this worker more memory, or start another one" in refusal
    finally:
        shards.close()
