"""A disk that takes no more writes while a worker runs: ingestion waits, searches go on, and nothing is lost."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.local.kafka import LocalKafka
from app.local.redis import LocalRedis
from app.shard.store import ShardStore
from schemas.errors import StorageFull
from tests.conftest import MakeStack
from tests.documents import Documents
from tests.services_local import eventually
from tests.unit.shard.parts import document, open_shard, unit


@contextmanager
def no_file_larger_than(size_bytes: int, pid: int = 0) -> Iterator[None]:
    """What the process writes beyond fails with EFBIG, in files that it has open as well. pid: 0 for this one."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.kafka
@pytest.mark.redis
def test_a_disk_that_refuses_writes_stops_ingestion_alone_until_it_takes_them_again(
    make_stack: MakeStack, shared_kafka: LocalKafka, shared_redis: LocalRedis
) -> None:
    stack = make_stack(shared_kafka.address, shared_redis.url, runtime="hashing")
    stack.start()
    documents = Documents(stack)
    documents.first()
    before = set(documents.texts)
    logs = list((stack.folder / "data").rglob("*.sqlite-wal"))
    assert len(logs) == stack.settings.partitions
    index = stack.role("index")

    with no_file_larger_than(min(path.stat().st_size for path in logs), index.pid):
        eventually(lambda: "its disk refuses it" in str(stack.readyz("index")[1].get("reason")), within_s=30)
        documents.then()
        assert before <= stack.hits(documents.word, k=1000).keys()
        assert index.running
        assert stack.readyz("index")[0] == 503

    documents.assert_found()
    stack.wait_ready("index")
    assert list((stack.folder / "data").rglob("*.unusable-*")) == []
    stack.restart("index")
    documents.assert_found()


def test_a_file_that_cannot_be_opened_for_the_disk_is_not_set_aside(tmp_path: Path) -> None:
    shard = open_shard(tmp_path)
    shard.apply([document(0, "a", unit(1))])
    shard.close()
    (path,) = tmp_path.glob("*.sqlite")
    with no_file_larger_than(0), pytest.raises(StorageFull, match="its disk refuses it"):
        ShardStore(path, "epoch")
    again = open_shard(tmp_path)
    assert again.document("a") is not None
    again.close()
