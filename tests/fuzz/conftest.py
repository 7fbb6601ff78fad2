"""One stack for all tests that ask over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.stack import Running, running


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("shards")) as stack:
        yield stack
