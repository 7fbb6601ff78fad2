"""The keyword index of a shard: BM25 over its chunks, derived from its rows and in memory only (ADR 0010)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tantivy import Document, Index, Occur, Query, Schema, SchemaBuilder, Searcher

from app.shard.words import Asked, Phrase, analyzer, fold, parse

# the least that tantivy takes, and it holds thousands of chunks: a shard has dozens to add at a time, and a worker has
# several shards. More than one thread only makes more segments of the same chunks.
_WRITER_HEAP_BYTES = 15_000_000
_WRITER_THREADS = 1
# a title says what all the chunks of a document are about, and each of them carries it
_TITLE_BOOST = 2.0
# up to here the labels become part of the query (4 ms for 10,000, half of it with the GIL held); beyond, hits that are
# not allowed are dropped
_MOST_LABELS_ASKED = 10_000
# how many of equal score are looked at to return those with the lowest labels: 1 ms; a prefix may match everything
_MOST_TIED = 4096
_GROWTH = 8
# of tantivy's files, had they been written: 0.69 of 5,000 docstrings' characters, 0.57 of 50,000
_INDEX_BYTES_PER_CHAR = 0.6
_INDEX_BYTES_PER_CHUNK = 10


@dataclass(frozen=True, slots=True)
class KeywordHit:
    """A chunk that was found. score: BM25 within this shard, above 0, higher is better."""

    label: int
    doc: int
    score: float


class KeywordIndex:
    """`add`, `remove` and `refresh` by one thread at a time, `search` by any; a search sees one state of it.

    tantivy gives the GIL up while it commits and while it searches; `add` is mostly Python, some 10 µs a chunk.
    Chunks are analyzed as app.shard.words says.
    """

    def __init__(self, stemmer: str = "english") -> None:
        """stemmer: a language in English, "none" for none. Raises ValueError for one that tantivy has not."""
        self._stemmer = stemmer
        self._schema = _schema()
        index = Index(self._schema)
        index.register_tokenizer("stemmed", analyzer(stemmer))
        index.register_tokenizer("whole", analyzer("none"))
        index.config_reader("manual")
        self._index = index
        self._writer = index.writer(_WRITER_HEAP_BYTES, _WRITER_THREADS)
        self._searcher = index.searcher()
        self._changed = self._closed = False
        self._added_count = self._added_chars = 0

    def add(self, chunks: Iterable[tuple[int, int, str | None, str]]) -> None:
        """Add (label, doc, title, text) with labels that were never used; found after the next `refresh`."""
        for label, doc, title, text in chunks:
            self._writer.add_document(self._document(label, doc, fold(title or ""), fold(text)))
            self._changed = True

    def remove(self, labels: Iterable[int]) -> None:
        """Remove chunks, also those added since the last `refresh`; unknown labels are fine."""
        for label in labels:
            self._writer.delete_documents_by_term("label", label)
            self._changed = True

    def refresh(self) -> bool:
        """Let searches see what was added and removed, all at once; False if there was nothing.

        Milliseconds for dozens of chunks; commits, so call it for many at a time. Raises ValueError if the writer has
        died: the index must be built anew.
        """
        if not self._changed:
            return False
        self._writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()
        self._changed = False
        return True

    def search(
        self, query: str, k: int, allowed: NDArray[np.int64] | None = None, searcher: Searcher | None = None
    ) -> list[KeywordHit]:
        """The best k chunks for plain text as app.shard.words.parse reads it, fewer only if no more match.

        allowed: shape (n,), ascending labels that may be returned; None: all. They do not influence scores. Best
        first, equal scores by label: if more than 4,096 share the lowest score, by the lowest labels of 4,096.
        Nothing that only excludes finds anything. searcher: an earlier state to search, None for the present one.
        """
        searcher = searcher or self._searcher
        built = self._query(searcher, parse(query, self._stemmer))
        if built is None or k < 1 or (allowed is not None and not len(allowed)) or not searcher.num_docs:
            return []
        if allowed is not None and len(allowed) <= _MOST_LABELS_ASKED:
            among = Query.const_score_query(Query.term_set_query(self._schema, "label", allowed.tolist()), 0.0)
            built, allowed = Query.boolean_query([(Occur.Must, built), (Occur.Must, among)]), None
        return _best(searcher, built, k, allowed)

    @property
    def searcher(self) -> Searcher:
        """The state that searches see at present."""
        return self._searcher

    @property
    def chunks(self) -> int:
        """How many can be found."""
        return self._searcher.num_docs

    @property
    def memory_bytes(self) -> int:
        """An estimate from the mean length of all chunks that were ever added.

        Without what merges leave to the allocator, which is far more than the index under constant replacing: 190 MB
        of a process beside 16 MB at 100,000 chunks (ADR 0010).
        """
        if not self._added_count:
            return 0
        mean = _INDEX_BYTES_PER_CHUNK + _INDEX_BYTES_PER_CHAR * self._added_chars / self._added_count
        return int(self.chunks * mean) + (_WRITER_HEAP_BYTES if self._changed else 0)

    def close(self) -> None:
        """Wait for merges and end the writer's threads; the last state can still be searched, others cannot come."""
        if not self._closed:
            self._closed = True
            self._writer.wait_merging_threads()

    def _document(self, label: int, doc: int, title: str, text: str) -> Document:
        document = Document()
        document.add_integer("label", label)
        document.add_integer("doc", doc)
        for field, value in (("title", title), ("text", text), ("words", title), ("words", text)):
            if value:
                document.add_text(field, value)
        self._added_count += 1
        self._added_chars += len(title) + len(text)
        return document

    def _query(self, searcher: Searcher, asked: Asked) -> Query | None:
        parts = [(Occur.Should, self._anywhere(word)) for word in asked.words]
        parts += [(Occur.Should, self._prefix(searcher, prefix)) for prefix in asked.prefixes]
        parts += [(Occur.Must, self._anywhere(phrase)) for phrase in asked.phrases]
        if not parts:
            return None
        parts += [(Occur.MustNot, self._anywhere(phrase)) for phrase in asked.without]
        parts += [(Occur.MustNot, self._beginning(prefix)) for prefix in asked.without_prefixes]
        return Query.boolean_query(parts)

    def _anywhere(self, phrase: Phrase) -> Query:
        title = Query.boost_query(self._in("title", phrase), _TITLE_BOOST)
        return Query.boolean_query([(Occur.Should, title), (Occur.Should, self._in("text", phrase))])

    def _in(self, field: str, phrase: Phrase) -> Query:
        if len(phrase) == 1:  # the binding panics on a phrase of one
            return Query.term_query(self._schema, field, phrase[0][1])
        return Query.phrase_query(self._schema, field, list(phrase))

    def _beginning(self, prefix: str) -> Query:
        # letters and digits only: nothing to escape
        return Query.regex_query(self._schema, "words", prefix + ".*")

    def _prefix(self, searcher: Searcher, prefix: str) -> Query:
        """As much as BM25 gives one word that is in so many chunks of mean length: not more for rarer endings."""
        query = self._beginning(prefix)
        found: int = searcher.search(query, 1).count  # type: ignore[attr-defined]  # not in its stub
        idf = math.log(1 + (searcher.num_docs - found + 0.5) / (found + 0.5))
        return Query.const_score_query(query, idf)


def _schema() -> Schema:
    builder = SchemaBuilder()
    builder.add_integer_field("label", indexed=True, fast=True)
    builder.add_integer_field("doc", fast=True)
    builder.add_text_field("title", tokenizer_name="stemmed")
    builder.add_text_field("text", tokenizer_name="stemmed")
    # for prefixes: `happines*` is not the beginning of the stem "happi"; neither frequencies nor places
    builder.add_text_field("words", tokenizer_name="whole", index_option="basic")
    return builder.build()


def _best(searcher: Searcher, query: Query, k: int, allowed: NDArray[np.int64] | None) -> list[KeywordHit]:
    """Asks for more until k are allowed and all that tie with the last of them are seen."""
    total = searcher.num_docs
    share = 1.0 if allowed is None else min(1.0, len(allowed) / total)
    limit = min(total, math.ceil(1.5 * k / share) + 16)
    while True:
        hits = searcher.search(query, limit, count=False).hits
        labels = np.array(searcher.fast_field_values("label", [at for _, at in hits]), np.int64)
        scores = np.array([score for score, _ in hits], np.float32)
        kept = np.arange(len(hits)) if allowed is None else np.flatnonzero(_is_in(labels, allowed))
        if len(hits) < limit or limit >= total:
            break
        if len(kept) >= k and (scores[kept[k - 1]] > scores[-1] or limit >= k + _MOST_TIED):
            break
        limit = min(total, limit * _GROWTH)
    order = kept[np.lexsort((labels[kept], -scores[kept]))][:k].tolist()
    docs = searcher.fast_field_values("doc", [hits[at][1] for at in order])
    return [KeywordHit(int(labels[at]), int(doc or 0), float(scores[at])) for at, doc in zip(order, docs, strict=True)]


def _is_in(labels: NDArray[np.int64], allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
    at = np.minimum(np.searchsorted(allowed, labels), len(allowed) - 1)
    found: NDArray[np.bool_] = allowed[at] == labels
    return found
