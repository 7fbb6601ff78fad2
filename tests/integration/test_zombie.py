"""An embed worker that is stopped with a batch in its hands, and wakes up when others have gone on."""

from __future__ import annotations

import signal
import time
from itertools import pairwise

import pytest

from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from schemas.headers import decode_headers
from tests.conftest import MakeStack
from tests.documents import Documents, compacted, records
from tests.services_local import eventually
from tests.stack import Stack

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

SESSION_MS = 3000


def written(stack: Stack, documents: Documents) -> list[list[int]]:
    """Source offsets of the records of each document, in the order in which they were written."""
    found: dict[bytes, list[int]] = {}
    for message in records(stack, stack.settings.vectors_topic):
        if message.key().startswith(documents.word.encode()):
            found.setdefault(message.key(), []).append(decode_headers(message.headers()).source_offset)
    return list(found.values())


@pytest.mark.parametrize(("point", "writes"), [("embed.embedded", False), ("embed.checked", True)])
def test_what_a_zombie_writes_does_not_survive(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis, point: str, writes: bool
) -> None:
    """Stopped before it asks whether the partitions are its own it writes nothing; stopped after that it writes what
    is old by then, and that is covered again."""
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing", session_timeout_ms=SESSION_MS)
    stack.start("index", "search")
    documents = Documents(stack)
    for number in range(8):
        documents.upsert(f"d{number}", "old")
    assert documents.positions
    stack.role("embed").settings["crash_at"] = f"{point}:1:SIGSTOP"
    stack.launch("embed")
    eventually(lambda: stack.role("embed").stopped, within_s=30)

    stack.add_embed("embed-b")
    stack.start("embed-b")
    for number in range(8):
        documents.upsert(f"d{number}", "new")
    documents.assert_found()

    stack.send("embed", signal.SIGCONT)
    stack.wait_ready("embed")
    time.sleep(1)
    late = [offsets for offsets in written(stack, documents) if any(a > b for a, b in pairwise(offsets))]
    assert bool(late) == writes
    documents.upsert("after", "the zombie works again")
    documents.assert_found()
    assert compacted(stack, documents.word) == documents.texts
    repairs = stack.metrics("index")["headrace_index_repairs_total"]
    assert (repairs > 0) == writes
