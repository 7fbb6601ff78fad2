"""Whether a test may run without a service: on a laptop it skips with the reason, where REQUIRE_SERVICES=1 it fails."""

from __future__ import annotations

import os

import pytest


def need(available: bool, what: str) -> None:
    """Skip (or fail, where REQUIRE_SERVICES=1) unless `available`; `what` says what is missing and how to get it."""
    if available:
        return
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"REQUIRE_SERVICES=1, but {what}", pytrace=False)
    pytest.skip(what)
