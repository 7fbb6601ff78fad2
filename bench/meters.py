"""What is read off the machine: quantiles, CPU time by process, and how much others used meanwhile."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max (numpy's linear interpolation), and the count."""
    if not values:
        return {"p50": float("nan"), "p95": float("nan"), "p99": float("nan"), "max": float("nan"), "count": 0}
    p50, p95, p99 = np.percentile(np.asarray(values), (50, 95, 99))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(max(values)), "count": len(values)}


def cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds that each process has used since its start; those that have ended are left out. Linux only."""
    used = {}
    for name, pid in pids.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        used[name] = (int(fields[11]) + int(fields[12])) * _TICK_S
    return used


class CpuMeter:
    """Cores that each process used between construction and `cores`, by name; `bench` is this process."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = {**pids, "bench": os.getpid()}
        self._before = cpu_s(self._pids)
        self._began = time.monotonic()

    def cores(self) -> dict[str, float]:
        """CPU seconds per second."""
        elapsed_s = time.monotonic() - self._began
        after = cpu_s(self._pids)
        return {name: (after[name] - used) / elapsed_s for name, used in self._before.items() if name in after}


class NoiseMeter:
    """How busy the machine was with other things, from construction to `reading`."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._before = _machine_s()
        self._own_before_s = _own_s()
        self._began = time.monotonic()

    def reading(self) -> dict[str, float]:
        """load_before: load average when it began. others_cores, stolen_cores: mean over the run.

        Call it when the benchmark's own processes have ended: only then is their time known.
        """
        elapsed_s = time.monotonic() - self._began
        busy_s, stolen_s = (now - then for now, then in zip(_machine_s(), self._before, strict=True))
        others_s = busy_s - (_own_s() - self._own_before_s)
        return {
            "load_before": round(self._load, 2),
            "others_cores": round(max(0.0, others_s / elapsed_s), 2),
            "stolen_cores": round(stolen_s / elapsed_s, 2),
        }


def _own_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _machine_s() -> tuple[float, float]:
    """CPU seconds of all processes of the machine, and those that its hypervisor gave to others."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0, 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, first)
    return (user + nice + system + irq + softirq) * _TICK_S, steal * _TICK_S
