"""A shard against a dictionary: whatever comes in whatever order, it finds exactly what the dictionary holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from app.event import Event
from app.order import DocumentOrder
from schemas.filters import parse_filter
from tests.unit.shard.parts import NOW_MS, delete, document, open_shard, random_units, watermark

DOCUMENTS = st.sampled_from(["a", "b", "c", "ключ"])
LANGUAGES = ["en", "de", "fr"]
Held = tuple[DocumentOrder, NDArray[np.float16] | None, str]


class ShardMachine(RuleBasedStateMachine):
    """model: per document its order, vectors (None: deleted) and language."""

    @initialize(rows=st.sampled_from([1, 4, 1000]))
    def start(self, rows: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="shard-"))
        self.rows = rows
        self.model: dict[str, Held] = {}
        self.sent: list[Event] = []
        self.meant: dict[int, tuple[str, DocumentOrder, Any, str]] = {}
        self.offset = 0
        self.source = 100
        self.through = -1
        self.as_of_ms: int | None = None
        self.shard = open_shard(self.folder, write_buffer_rows=rows)

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            self.shard.close()
            shutil.rmtree(self.folder)

    # --- what comes from the topic

    @rule(
        changes=st.lists(
            st.tuples(
                DOCUMENTS,
                st.integers(0, 3),  # chunks
                st.integers(0, 999),  # seed
                st.sampled_from(LANGUAGES),
                st.none() | st.integers(1, 4),  # version
                st.sampled_from([0, 0, 0, 0, -7, -40]),  # how far its source offset is behind the newest
                st.booleans(),  # delete
            ),
            min_size=1,
            max_size=4,
        )
    )
    def apply_one_transaction(self, changes: list[tuple[str, int, int, str, int | None, int, bool]]) -> None:
        events = []
        for document_id, chunks, seed, language, version, behind, gone in changes:
            self.source += 1
            source = max(0, self.source + behind)
            options: dict[str, Any] = {"source_offset": source, "version": version}
            if gone:
                vectors = None
                events.append(delete(self.offset, document_id, **options))
            else:
                matrix = random_units(chunks, seed)
                vectors = matrix.astype(np.float16)
                events.append(document(self.offset, document_id, matrix, metadata={"lang": language}, **options))
            self.meant[self.offset] = (document_id, DocumentOrder(version, source), vectors, language)
            self._expect(*self.meant[self.offset])
            self.offset += 1
            self._expect_reach(source, NOW_MS + source)
        self._apply(events)

    @rule(step=st.integers(-3, 3))
    def apply_watermark(self, step: int) -> None:
        through = max(0, self.source + step)
        self._apply([watermark(self.offset, through)])
        self.offset += 1
        self._expect_reach(through, NOW_MS + through)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """The same records again, at their old offsets."""
        start = data.draw(st.integers(0, len(self.sent) - 1))
        change = self.shard.apply(self.sent[start : start + 3])
        assert set(change.outcomes) == {"redelivered"}

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A record that the embed worker wrote again, at a new offset."""
        event = data.draw(st.sampled_from(self.sent))
        self.shard.apply([event._replace(offset=self.offset)])
        self.offset += 1
        if event.offset in self.meant:
            self._expect(*self.meant[event.offset])

    # --- what the worker does

    @rule(slices=st.integers(1, 4))
    def absorb(self, slices: int) -> None:
        for _ in range(slices):
            self.shard.absorb()

    @rule()
    def reopen(self) -> None:
        before = self.shard.next_offset
        self.shard.close()
        self.shard = open_shard(self.folder, write_buffer_rows=self.rows)
        assert self.shard.next_offset == before

    # --- what must hold

    @rule(seed=st.integers(0, 99), k=st.integers(1, 6))
    def search(self, seed: int, k: int) -> None:
        self._compare(seed, k, None)

    @rule(seed=st.integers(0, 99), k=st.integers(1, 6), languages=st.lists(st.sampled_from(LANGUAGES), unique=True))
    def search_with_a_filter(self, seed: int, k: int, languages: list[str]) -> None:
        self._compare(seed, k, languages)

    @invariant()
    def counts_and_offsets_are_right(self) -> None:
        if not hasattr(self, "shard"):
            return
        status = self.shard.status()
        living = [vectors for _, vectors, _ in self.model.values() if vectors is not None]
        assert status.documents == len(living)
        assert status.chunks == sum(map(len, living))
        assert status.next_offset == (self.offset or None)
        assert (status.applied_offset, status.as_of_ms) == (self.through if self.through >= 0 else None, self.as_of_ms)

    @invariant()
    def documents_are_what_the_model_holds(self) -> None:
        for document_id, (order, vectors, language) in getattr(self, "model", {}).items():
            stored = self.shard.document(document_id)
            assert stored is not None
            assert (stored.version, stored.source_offset) == (order.version, order.source_offset)
            assert stored.deleted == (vectors is None)
            if vectors is not None:
                assert stored.metadata == {"lang": language}

    def _apply(self, events: list[Event]) -> None:
        self.shard.apply(events)
        self.sent += events

    def _expect(self, document_id: str, order: DocumentOrder, vectors: Any, language: str) -> None:
        held = self.model.get(document_id)
        if held is None or order.supersedes(held[0]):
            self.model[document_id] = (order if held is None else order.after(held[0]), vectors, language)

    def _expect_reach(self, through: int, as_of_ms: int) -> None:
        if through >= self.through:
            self.through, self.as_of_ms = through, max(as_of_ms, self.as_of_ms or 0)

    def _compare(self, seed: int, k: int, languages: list[str] | None) -> None:
        (query,) = random_units(1, seed)
        parsed = None if languages is None else parse_filter({"lang": languages})
        hits = self.shard.search(query, k, parsed, "m")
        scores = {
            document_id: float((vectors.astype(np.float32) @ query).max())
            for document_id, (_, vectors, language) in self.model.items()
            if vectors is not None and len(vectors) and (languages is None or language in languages)
        }
        best = sorted(scores.values(), reverse=True)[:k]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=2e-3)
        assert len({hit.document.id for hit in hits}) == len(hits)
        for hit in hits:
            np.testing.assert_allclose(hit.score, scores[hit.document.id], atol=2e-3)
            vectors = self.model[hit.document.id][1]
            assert vectors is not None
            chunk = vectors["abcdefgh".index(hit.text)].astype(np.float32)
            np.testing.assert_allclose(hit.score, chunk @ query, atol=2e-3)


ShardMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestShard = ShardMachine.TestCase
