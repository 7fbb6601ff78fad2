"""Writes what a benchmark measured: results/<name>.json with everything, results/<name>.md to be read."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from app.local.kafka_home import kafka_version
from app.model.openvino_model import has_amx
from bench.meters import NoiseMeter
from bench.stack import settings_given

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("openvino", "torch", "sentence-transformers", "hnswlib", "faust-streaming", "confluent-kafka", "numpy")
# from so much use of the cores by others on, the figures say little
_NOISY_CORES = 0.15


@dataclass(frozen=True, slots=True)
class Table:
    """rows: as many cells as columns; numbers are rounded to three digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Target:
    """What was aimed at, and what came out."""

    what: str
    wanted: str
    measured: str
    met: bool


@dataclass(slots=True)
class Report:
    """Build it before the first measurement: it watches what else the machine does meanwhile.

    command: how to do it again. figures: everything for the JSON; keys carry their units.
    """

    name: str
    title: str
    command: str
    arguments: Sequence[str]
    redis: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    noise: NoiseMeter = field(default_factory=NoiseMeter)

    def write(self, folder: Path = RESULTS) -> Path:
        """Write both files; returns the one to be read. Call it after the benchmark's processes have ended."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = self._facts()
        (folder / f"{self.name}.json").write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2) + b"\n")
        path = folder / f"{self.name}.md"
        path.write_text(self._text(facts), encoding="utf-8")
        return path

    def _facts(self) -> dict[str, Any]:
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings_given().items())
        arguments = f' ARGS="{shlex.join(self.arguments)}"' if self.arguments else ""
        return {
            "benchmark": self.name,
            "command": f"{given} {self.command}{arguments}".strip(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": machine(),
            "noise": self.noise.reading(),
            "versions": _versions(self.redis),
            "sizes": self.sizes,
            "targets": [
                {"what": item.what, "wanted": item.wanted, "measured": item.measured, "met": item.met}
                for item in self.targets
            ],
            "figures": self.figures,
            "notes": self.notes,
        }

    def _text(self, facts: dict[str, Any]) -> str:
        where, noise = facts["machine"], facts["noise"]
        cpu = f"{where['cores']} cores of {where['cpu']}, {'with' if where['amx'] else 'without'} AMX"
        lines = [
            f"# {self.title}",
            "",
            f"`{facts['command']}` on {facts['date'][:10]}, commit {facts['commit']}.",
            f"**{cpu}**, {where['memory_gib']} GiB, {where['system']}.",
            ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + ".",
            "",
            f"Beside this ran: load average {noise['load_before']} before the start; other processes used "
            f"{noise['others_cores']} cores in the mean, the hypervisor took {noise['stolen_cores']}."
            + (" **So the figures are noisy.**" if _is_noisy(noise) else ""),
            "",
        ]
        if self.targets:
            rows = [
                (item.what, item.wanted, item.measured, "met" if item.met else "**missed**") for item in self.targets
            ]
            lines += _table_lines(Table(f"Targets ({cpu})", ("what", "target", "measured", ""), rows))
        for table in self.tables:
            lines += _table_lines(Table(f"{table.title} ({cpu})", table.columns, table.rows))
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def machine() -> dict[str, Any]:
    """The machine in a few words."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "amx": has_amx(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())  # of the first core
    family = f" family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    return fields.get("model name", platform.machine()) + family


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = ["status", "--porcelain", "--", "..", ":(exclude,top)bench/results"]
        status = subprocess.run([*git, *changed], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" with uncommitted changes" if status.stdout.strip() else "")


def _versions(redis: str) -> dict[str, str]:
    found = {"Python": platform.python_version(), "Kafka": kafka_version()}
    if redis:
        found["Redis"] = redis
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def redis_version(program: Path) -> str:
    """What the server says of itself, such as `redis 7.0.15`."""
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False).stdout
    version = next((word[2:] for word in said.split() if word.startswith("v=")), "")
    return f"{version} ({program.name})"


def _is_noisy(noise: dict[str, float]) -> bool:
    return noise["others_cores"] + noise["stolen_cores"] > _NOISY_CORES


def _table_lines(table: Table) -> list[str]:
    rows = [list(table.columns), ["---"] * len(table.columns), *([_cell(cell) for cell in row] for row in table.rows)]
    return [f"## {table.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
