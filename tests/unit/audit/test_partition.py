"""The audit of a partition over a real shard and topics in memory: what is explained, and what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from app.audit import partition as module
from app.audit.partition import PartitionAudit
from app.event import Event
from app.settings import Settings
from app.shard.held_rows import HeldRows
from app.shard.shard import Shard
from schemas.dead_letter import DeadLetter
from schemas.errors import NotServing
from tests.unit.embed.parts import event as change
from tests.unit.shard.parts import EPOCH, delete, document, open_shard, random_units, watermark

Topics = dict[str, list[Event]]


class Reader:
    """Topics in memory."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics

    def spans(self, topic: str) -> dict[int, tuple[int, int]]:
        return {0: self.span(topic, 0)}

    def span(self, topic: str, _partition: int) -> tuple[int, int]:
        log = self.topics[topic]
        return 0, log[-1].offset + 1 if log else 0

    def read(self, topic: str, spans: dict[int, tuple[int, int]]) -> Iterator[Event]:
        ((start, end),) = spans.values()
        return (event for event in list(self.topics[topic]) if start <= event.offset < end)

    def one(self, topic: str, _partition: int, offset: int) -> Event | None:
        return next((event for event in self.topics[topic] if event.offset == offset), None)


class Held:
    """A shard without HTTP. before_rows: called before it says rows of some ids, as if somebody wrote meanwhile."""

    replica = "r"

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.before_rows: Callable[[], object] = lambda: None
        self.gone = False

    async def head(self) -> HeldRows:
        return self.shard.rows_after(None, 0)

    async def reach(self, next_offset: int) -> None:
        if self.gone:
            raise NotServing("shard 0 of replica r is gone")
        assert self.shard.rows_of(()).next_offset >= next_offset

    async def pages(self, next_offset: int) -> AsyncIterator[HeldRows]:
        yield self.shard.rows_after(None, 1000)

    async def rows(self, ids: Sequence[str], _next_offset: int) -> AsyncIterator[tuple[Sequence[str], HeldRows]]:
        if ids:
            self.before_rows()
            yield ids, self.shard.rows_of(ids)

    async def whole(self, document_id: str) -> HeldRows:
        return self.shard.whole_row(document_id)


class Audited:
    """A shard that has applied `vectors`, beside the topics."""

    def __init__(
        self, folder: Path, vectors: list[Event], changes: Sequence[Event] = (), letters: Sequence[Event] = ()
    ) -> None:
        self.settings = Settings(_env_file=None)
        self.topics: Topics = {
            self.settings.vectors_topic: list(vectors),
            self.settings.changes_topic: list(changes),
            self.settings.dlq_topic: list(letters),
        }
        self.shard = open_shard(folder)
        self.shard.apply(vectors)
        self.held = Held(self.shard)

    def write(self, event: Event, *, applied: bool = True) -> None:
        self.topics[self.settings.vectors_topic].append(event)
        if applied:
            self.shard.apply([event])

    async def run(self) -> list[tuple[str, str]]:
        """Kind and id of what is found."""
        reader, shards = Reader(self.topics), [self.held]
        self.audit = PartitionAudit(self.settings, reader, EPOCH, 0, shards, {}, None, lambda *_: None)  # type: ignore[arg-type]
        found = await self.audit.run()
        self.shard.close()
        return [(finding.kind, finding.id) for finding in found]


@pytest.fixture(autouse=True)
def without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BETWEEN_S", 0.0)


async def test_what_is_written_while_it_is_looked_at_is_no_drift(tmp_path: Path) -> None:
    audited = Audited(tmp_path, [document(n, f"d{n}", random_units(1, n)) for n in range(5)])
    # the topic has less than the shard when it is read first, and goes on at every look
    late = [document(5 + n, f"d{n % 3}", random_units(2, n)) for n in range(6)]
    shown = iter([late[2:4], late[4:]])
    read_first = Reader.span

    def span(self: Reader, topic: str, partition: int) -> tuple[int, int]:
        end = read_first(self, topic, partition)
        if topic == audited.settings.vectors_topic and not audited.audit.vectors_end:
            for event in late[:2]:
                audited.write(event)
        return end

    audited.held.before_rows = lambda: [audited.write(event) for event in next(shown, [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "span", span)
        assert await audited.run() == []
    assert len(audited.topics[audited.settings.vectors_topic]) >= 9


async def test_a_repeated_record_whose_vectors_are_rounded_otherwise_is_no_drift_and_other_vectors_are(
    tmp_path: Path,
) -> None:
    vectors = random_units(2, 1)
    near = np.nextafter(vectors.astype(np.float16), np.float16(1)).astype(np.float32)
    audited = Audited(
        tmp_path,
        [
            document(0, "a", vectors, source_offset=7),
            document(1, "a", near, source_offset=7),
            document(2, "b", vectors),
        ],
    )
    audited.topics[audited.settings.vectors_topic][2] = document(2, "b", vectors[::-1])
    assert await audited.run() == [("mismatched", "b")]


async def test_a_change_that_the_log_claims_to_be_past_is_lost_unless_it_has_a_dead_letter(tmp_path: Path) -> None:
    letter = DeadLetter("documents.changes", 0, 4, "embed", "UnembeddableText", "m", 2**45)
    audited = Audited(
        tmp_path,
        [document(0, "a", random_units(1, 1), source_offset=1), watermark(1, 9)],
        [change(1, "a", "one"), change(3, "lost", "x"), change(4, "dead", "x"), change(12, "later", "x")],
        [Event(0, 0, b"dead", b"", tuple(letter.headers(())), 0, 0)],
    )
    assert await audited.run() == [("lost", "lost")]


async def test_a_stale_change_is_not_lost_where_only_a_shard_remembers_the_delete(tmp_path: Path) -> None:
    audited = Audited(
        tmp_path,
        [delete(0, "a", source_offset=5, version=9), watermark(1, 9)],
        [change(7, "a", "late", version=3)],
    )
    del audited.topics[audited.settings.vectors_topic][0]  # Kafka forgot the tombstone
    assert await audited.run() == []


async def test_a_newer_state_in_a_shard_than_in_the_topic_is_told(tmp_path: Path) -> None:
    audited = Audited(tmp_path, [document(0, "a", random_units(1, 1), source_offset=8), watermark(1, 9)])
    audited.topics[audited.settings.vectors_topic][0] = document(0, "a", random_units(1, 1), source_offset=2)
    assert await audited.run() == [("ahead", "a")]


async def test_a_shard_that_cannot_be_read_is_a_problem_and_not_clean(tmp_path: Path) -> None:
    audited = Audited(tmp_path, [document(0, "a", random_units(1, 1))])
    audited.held.gone = True
    assert await audited.run() == []
    assert audited.audit.problems == ["shard 0 of replica r is gone"]
