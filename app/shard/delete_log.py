"""The deletes that an index worker applied lately, for gateways that join them with those of other replicas."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from app.shard.apply import AppliedDocument

MOST = 1024  # of them are kept; gateways ask every second


class DeleteLog:
    """Thread-safe. Each delete has a number that counts from 0 in the life of the process."""

    def __init__(self) -> None:
        self._life = uuid.uuid4().hex[:12]
        self._kept: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._count = 0
        self._lock = threading.Lock()

    def saw(self, documents: Sequence[AppliedDocument], partition: int, visible_ns: int, *, live: bool) -> None:
        """Documents of one transaction. live: they were not read to catch up."""
        made = [
            {
                "shard": partition,
                "source_offset": document.headers.source_offset,
                "sent_ms": document.headers.stages["produced"] // 1_000_000,
                "invisible_ms": visible_ns // 1_000_000,
                "live": live,
            }
            for document in documents
            if document.headers.kind == "delete" and "produced" in document.headers.stages  # no repair of a log
        ]
        with self._lock:
            self._kept.extend(made)
            self._count += len(made)

    def after(self, asked: str) -> dict[str, Any]:
        """Those from `life:number` on, as far as they are kept; of another life all, for `now` none.

        `first`: the number of the first of them.
        """
        life, _, number = asked.rpartition(":")
        with self._lock:
            oldest = self._count - len(self._kept)
            if asked == "now":
                wanted = self._count
            elif life == self._life and number.isascii() and number.isdigit() and len(number) < 19:
                wanted = min(max(int(number), oldest), self._count)
            else:
                wanted = oldest
            items = list(islice(self._kept, wanted - oldest, None))
        return {"life": self._life, "first": wanted, "items": items}
