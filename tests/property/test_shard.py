"""A shard against a dictionary: whatever comes in whatever order, whatever is saved, built anew, lost or cut off in
between, it finds exactly what the dictionary holds."""

from __future__ import annotations

import random
import shutil
import tempfile
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from app.event import Event
from app.order import DocumentOrder
from app.shard.hits import ShardHit
from app.shard.rebuild import Rebuild
from app.shard.shard import Shard
from schemas.filters import Filter, parse_filter
from tests.unit.shard.parts import NOW_MS, delete, document, open_shard, random_units, watermark
from tests.unit.shard.test_snapshot import GRAPH, save

DOCUMENTS = st.sampled_from(["a", "b", "c", "ключ"])
LANGUAGES = ["en", "de", "fr"]
LETTERS = "uvwxyz"  # of texts; titles have other words
WORDS = st.sampled_from([*LETTERS, "title", "ключ", "nowhere"])
SOME_LANGUAGES = st.none() | st.lists(st.sampled_from(LANGUAGES), unique=True)
MANY = 10  # more than there are documents
Changes = list[tuple[str, int, int, str, int | None, int, bool]]
CHANGES = st.lists(
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


class Held(NamedTuple):
    """What the model knows of a document. vectors: None where it is deleted. text: a letter per chunk."""

    order: DocumentOrder
    vectors: NDArray[np.float16] | None
    language: str
    text: str

    def has(self, word: str, document_id: str) -> bool:
        return bool(self.text) and (word in self.text or word in ("title", document_id))


@dataclass
class Model:
    """What a shard should hold, and how far it should have come."""

    documents: dict[str, Held]
    offset: int = 0
    through: int = -1
    as_of_ms: int | None = None

    def expect(self, document_id: str, held: Held) -> None:
        before = self.documents.get(document_id)
        if before is None or held.order.supersedes(before.order):
            order = held.order if before is None else held.order.after(before.order)
            self.documents[document_id] = held._replace(order=order)
        elif held.order.source_offset == before.order.source_offset:  # the same change again: the last record counts
            self.documents[document_id] = held._replace(order=held.order.with_floor(before.order.version))

    def expect_reach(self, through: int, as_of_ms: int) -> None:
        if through >= self.through:
            self.through, self.as_of_ms = through, max(as_of_ms, self.as_of_ms or 0)

    def findable(self, languages: list[str] | None) -> dict[str, Held]:
        return {
            document_id: held
            for document_id, held in self.documents.items()
            if held.vectors is not None and len(held.vectors) and (languages is None or held.language in languages)
        }

    def copied(self) -> Model:
        model = copy(self)
        model.documents = dict(self.documents)
        return model


class ShardMachine(RuleBasedStateMachine):
    """log: every record that was written, by its offset. saved: up to which offset the present snapshot goes;
    None where there is none."""

    @initialize(rows=st.sampled_from([1, 4, 1000]))
    def start(self, rows: int) -> None:
        self.small = mock.patch("app.shard.rebuild.FIRST_CAPACITY", 4)
        self.small.start()
        self.folder = Path(tempfile.mkdtemp(prefix="shard-"))
        self.rows = rows
        self.model = Model({})
        self.log: list[Event] = []
        self.meant: dict[int, tuple[str, Held]] = {}
        self.source = 100
        self.saved: int | None = None
        self.shard = self._open(self._new_folder())

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            self.small.stop()
            self.shard.close()
            shutil.rmtree(self.folder)

    # --- what comes from the topic

    @rule(changes=CHANGES)
    def apply_one_transaction(self, changes: Changes) -> None:
        events = []
        for document_id, chunks, seed, language, version, behind, gone in changes:
            self.source += 1
            source, offset = max(0, self.source + behind), self.model.offset
            options: dict[str, Any] = {"source_offset": source, "version": version}
            text = "" if gone else "".join(random.Random(seed).sample(LETTERS, chunks))
            vectors = None if gone else random_units(chunks, seed).astype(np.float16)
            if vectors is None:
                events.append(delete(offset, document_id, **options))
            else:
                events.append(document(offset, document_id, vectors, text=text, metadata={"lang": language}, **options))
            self.meant[offset] = (document_id, Held(DocumentOrder(version, source), vectors, language, text))
            self.model.expect(*self.meant[offset])
            self.model.offset += 1
            self.model.expect_reach(source, NOW_MS + source)
        self._apply(events)

    @rule(step=st.integers(-3, 3))
    def apply_watermark(self, step: int) -> None:
        through = max(0, self.source + step)
        self.model.offset += 1
        self.model.expect_reach(through, NOW_MS + through)
        self._apply([watermark(self.model.offset - 1, through)])

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """The same records again, at their old offsets."""
        start = data.draw(st.integers(0, len(self.log) - 1))
        change = self.shard.apply(self.log[start : start + 3])
        assert set(change.outcomes) == {"redelivered"}

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A record that the embed worker wrote again, at a new offset."""
        event = data.draw(st.sampled_from(self.log))
        if event.offset in self.meant:
            self.meant[self.model.offset] = self.meant[event.offset]
            self.model.expect(*self.meant[event.offset])
        self.model.offset += 1
        self._apply([event._replace(offset=self.model.offset - 1)])

    # --- what the worker does

    @rule(slices=st.integers(1, 4))
    def absorb(self, slices: int) -> None:
        for _ in range(slices):
            self.shard.absorb()

    @rule()
    def save_a_snapshot(self) -> None:
        if save(self.shard):
            self.saved = self.model.offset

    @rule()
    def build_the_graph_anew(self) -> None:
        index = self.shard._index
        if index is not None:
            assert Rebuild(index, cpu_share=1.0).run()
            assert index.dead_ratio == 0

    @rule()
    def reopen(self) -> None:
        folder = self.shard._store.path.parent
        self.shard.close()
        self.shard = self._open(folder)
        assert self.shard.next_offset == (self.model.offset or None)

    @rule()
    def crash_and_go_on(self) -> None:
        """The process is killed: what is on the disk at that moment is all there is."""
        crashed = self._copy_of_files()
        shutil.copytree(self.shard._store.path.parent, crashed, dirs_exist_ok=True, ignore=_only_the_graph)
        self.shard.close()
        self.shard = self._open(crashed)

    @rule(changes=CHANGES, saves=st.sampled_from(["before", "after", "never"]), seed=st.integers(0, 99), word=WORDS)
    def a_power_cut_loses_the_last_transactions(self, changes: Changes, saves: str, seed: int, word: str) -> None:
        """The file is that of an earlier moment, the graph of a later one; then the topic gives again what was lost."""
        if saves == "before":
            self.save_a_snapshot()
        folder, model = self._copy_of_files(), self.model.copied()
        self.apply_one_transaction(changes)
        self.shard.absorb()
        if saves == "after":
            self.save_a_snapshot()
        newer = self.saved is not None and self.saved > model.offset
        shutil.copytree(self.shard._store.path.parent, folder, dirs_exist_ok=True, ignore=_only_the_graph)
        with_snapshot = (folder / GRAPH).exists()
        cut = self._open(folder)
        try:
            if with_snapshot and model.offset:
                assert (folder / GRAPH).exists() != newer  # set aside
            self._check_all(cut, model, seed, word)
            cut.apply([event for event in self.log if event.offset >= model.offset])
            for _ in range(3):
                cut.absorb()
            cut.refresh_keywords()
            self._check_all(cut, self.model, seed, word)
        finally:
            cut.close()

    # --- what must hold

    @rule(seed=st.integers(0, 99), k=st.integers(1, 6), languages=SOME_LANGUAGES)
    def search(self, seed: int, k: int, languages: list[str] | None) -> None:
        _check_near(self.shard, self.model, seed, k, languages)

    @rule(word=WORDS, languages=SOME_LANGUAGES)
    def search_by_words(self, word: str, languages: list[str] | None) -> None:
        self.shard.refresh_keywords()
        _check_words(self.shard, self.model, word, languages)

    @rule(word=WORDS, languages=SOME_LANGUAGES)
    def search_by_words_that_are_behind(self, word: str, languages: list[str] | None) -> None:
        """Whatever the keyword index has not seen yet, a document comes once, as it is now, and not if it is gone."""
        ids = [hit.document.id for hit in self.shard.search(None, MANY, _filter(languages), None, word)]
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(self.model.findable(languages))

    @rule(seed=st.integers(0, 99), word=WORDS, languages=SOME_LANGUAGES)
    def search_both_ways(self, seed: int, word: str, languages: list[str] | None) -> None:
        self.shard.refresh_keywords()
        (query,) = random_units(1, seed)
        hits = self.shard.search(query, MANY, _filter(languages), "m", word)
        held = self.model.findable(languages)
        assert sorted(hit.document.id for hit in hits) == sorted(held)
        for hit in hits:
            own = held[hit.document.id]
            np.testing.assert_allclose(hit.vector_score, _score(own, query), atol=2e-3)
            assert (hit.keyword_score is not None) == own.has(word, hit.document.id)

    @invariant()
    def counts_offsets_and_rows_are_those_of_the_model(self) -> None:
        if hasattr(self, "shard"):
            _check_rows(self.shard, self.model)

    def _check_all(self, shard: Shard, model: Model, seed: int, word: str) -> None:
        _check_rows(shard, model)
        for languages in (None, LANGUAGES[:2]):
            _check_near(shard, model, seed, 3, languages)
            _check_words(shard, model, word, languages)

    def _apply(self, events: list[Event]) -> None:
        self.shard.apply(events)
        self.log += events

    def _open(self, folder: Path) -> Shard:
        return open_shard(folder, write_buffer_rows=self.rows)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def _copy_of_files(self) -> Path:
        """The file as a crash would leave it, while it is open; without the graph."""
        folder = self._new_folder()
        for suffix in ("sqlite", "sqlite-wal"):
            path = self.shard._store.path.with_suffix(f".{suffix}")
            if path.exists():
                shutil.copy(path, folder)
        return folder


def _only_the_graph(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name != GRAPH]


def _filter(languages: list[str] | None) -> Filter | None:
    return None if languages is None else parse_filter({"lang": languages})


def _score(held: Held, query: NDArray[np.float32]) -> float:
    assert held.vectors is not None
    return float((held.vectors.astype(np.float32) @ query).max())


def _check_rows(shard: Shard, model: Model) -> None:
    status = shard.status()
    living = [held.vectors for held in model.documents.values() if held.vectors is not None]
    assert (status.documents, status.chunks) == (len(living), sum(map(len, living)))
    assert status.next_offset == (model.offset or None)
    assert (status.applied_offset, status.as_of_ms) == (model.through if model.through >= 0 else None, model.as_of_ms)
    for document_id, held in model.documents.items():
        stored = shard.document(document_id)
        assert stored is not None
        assert (stored.version, stored.source_offset) == (held.order.version, held.order.source_offset)
        assert stored.deleted == (held.vectors is None)
        if held.vectors is not None:
            assert (stored.metadata, stored.text) == ({"lang": held.language}, held.text)


def _check_near(shard: Shard, model: Model, seed: int, k: int, languages: list[str] | None) -> None:
    (query,) = random_units(1, seed)
    hits = shard.search(query, k, _filter(languages), "m")
    held = model.findable(languages)
    best = sorted((_score(own, query) for own in held.values()), reverse=True)[:k]
    np.testing.assert_allclose([hit.score for hit in hits], best, atol=2e-3)
    assert len({hit.document.id for hit in hits}) == len(hits)
    for hit in hits:
        own = held[hit.document.id]
        np.testing.assert_allclose(hit.score, _score(own, query), atol=2e-3)
        _check_chunks(hit, own, query)


def _check_chunks(hit: ShardHit, held: Held, query: NDArray[np.float32]) -> None:
    assert held.vectors is not None
    spans = [chunk.start for chunk in hit.chunks]
    assert len(set(spans)) == len(spans)
    for chunk in hit.chunks:
        assert hit.text_of(chunk) == held.text[chunk.start]
        np.testing.assert_allclose(chunk.score, held.vectors[chunk.start].astype(np.float32) @ query, atol=2e-3)


def _check_words(shard: Shard, model: Model, word: str, languages: list[str] | None) -> None:
    hits = shard.search(None, MANY, _filter(languages), None, word)
    held = model.findable(languages)
    assert sorted(hit.document.id for hit in hits) == sorted(key for key, own in held.items() if own.has(word, key))
    for hit in hits:
        assert hit.keyword_score is not None
        assert word in (hit.text, "title", hit.document.id)


ShardMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestShard = ShardMachine.TestCase
