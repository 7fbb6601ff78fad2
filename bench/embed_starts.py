"""How long it takes from the start of a process to the first vector, and on what."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import orjson

from bench.embed_start import ROLES, STEPS
from schemas.errors import ServiceMissing

_WITHIN_S = 120


def starts(count: int, step: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """By role: seconds of every start, to when its imports were done and to the first vector; steps by name.

    A start of each that is not counted comes first: it fills the file cache, and writes the bytecode, to a folder of
    its own, so that it does not matter whether packages came with theirs. Raises ServiceMissing.
    """
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for start in range(count + 1):
            step(f"starts: round {start} of {count}")
            for role in (*ROLES, STEPS):
                told = _start(role, environment)
                if start:
                    found.setdefault(role, []).append(told)
    medians = {
        role: {name: statistics.median(told[name] for told in all_told) for name in all_told[0]}
        for role, all_told in found.items()
    }
    return {"medians_s": medians, "starts_s": found}


def _start(role: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.embed_start", role, str(time.monotonic_ns())]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_WITHIN_S, check=False
    )
    if done.returncode != 0:
        raise ServiceMissing(f"the start of {role} failed; the lines above may say why")
    told: dict[str, float] = orjson.loads(done.stdout.splitlines()[-1])
    return told
