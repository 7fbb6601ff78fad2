"""The fault soak at its shortest: one fault of every kind under a random workload, on real Kafka and Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.local.console import Console
from app.local.redis import find_redis_server
from bench.soak import Plan, Soak
from bench.soak_faults import FAULTS
from tests.services_local import kafka_or_skip, redis_or_skip

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

WHEN = {"while it ran", "audits while it ran", "log", "in the end", "dead letters", "rebuilt", "final audit"}

# `make soak` does more of all this, for longer.
PLAN = Plan(seed=7, faults=len(FAULTS), every_s=1.6, rate=30, documents=200)


def test_nothing_is_lost_back_twice_or_stale_after_a_fault_of_every_kind(tmp_path: Path) -> None:
    home = kafka_or_skip()
    redis_or_skip()
    program = find_redis_server("system")
    assert program is not None

    outcome = Soak(PLAN, tmp_path, home, program, Console()).run()

    assert outcome.drifted == 0, "\n".join(outcome.findings)
    assert set(outcome.figures["faults"]) == set(FAULTS)
    assert outcome.figures["killed_after_sigterm"] == []
    assert set(outcome.drift) == WHEN
    assert outcome.figures["queries"]["judged right or wrong"] > 0
    assert outcome.figures["documents"] > 100
    assert sum(outcome.figures["audits"].values()) > 0
    assert outcome.figures["final_audit"] == "clean"
