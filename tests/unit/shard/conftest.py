"""Shards that a failed test left open are closed, or their warnings would be reported at other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.shard.shard import Shard


@pytest.fixture(autouse=True)
def _no_shard_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[Shard] = []
    load = Shard._load

    def remembered(shard: Shard) -> None:
        opened.append(shard)
        load(shard)

    monkeypatch.setattr(Shard, "_load", remembered)
    yield
    for shard in opened:
        shard.close()
