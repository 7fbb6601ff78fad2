"""Shards that a failed test left open are closed, or their warnings would be reported at other tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.shard.shard import Shard


@pytest.fixture(autouse=True)
def _no_shard_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[Shard] = []
    opening = Shard.__init__

    def remembered(shard: Shard, *arguments: Any) -> None:
        opening(shard, *arguments)
        opened.append(shard)

    monkeypatch.setattr(Shard, "__init__", remembered)
    yield
    for shard in opened:
        shard.close()
