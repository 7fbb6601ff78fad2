"""The keyword index: what a query finds, in which order, what it shows of a text, beside writing and after churn."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unicodedata import normalize

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.shard.keyword import KeywordIndex
from app.shard.words import analyzer, fold, highlights, parse
from tests.services_local import eventually
from tests.unit.shard.test_threads import Threads

K1, B, TITLE = 1.2, 0.75, 2.0
ODD = [
    '"', '""', '" "', '"""', "*", "-", "- -", '-"', '-""', "-*", "(", "[a TO b]", "text:foo", "label:1", "a AND", "OR",
    "NOT", "\\", "\0", "a\0b", "😀", "^~+|&", "{}", "x" * 10_000, "x " * 5_000, '"x ' * 3_000, "-x " * 3_000,
    "a* b* c* d* e* f* " * 500, "\ud800", "東" * 5_000, "\u0301", "　", "ﷺ" * 600, "ก็ " * 99, '"' + "y " * 300 + '"',
]  # fmt: skip


@contextmanager
def index_of(texts: Iterable[str | tuple[str | None, str]], stemmer: str = "english") -> Iterator[KeywordIndex]:
    """Labels from 1 on, one document of each."""
    index = KeywordIndex(stemmer)
    titled = [(None, text) if isinstance(text, str) else text for text in texts]
    index.add((label, 100 + label, *item) for label, item in enumerate(titled, 1))
    index.refresh()
    yield index
    index.close()


def labels(index: KeywordIndex, query: str, k: int = 100) -> list[int]:
    return [hit.label for hit in index.search(query, k)]


def found(query: str, *texts: str | tuple[str | None, str], stemmer: str = "english") -> list[int]:
    """Labels in ascending order."""
    with index_of(texts, stemmer) as index:
        return sorted(labels(index, query))


def random_texts(count: int, seed: int) -> list[tuple[str | None, str]]:
    """Words of which some are common, some rare; titles of up to three."""
    choose = random.Random(seed)
    vocabulary = [f"w{n}" for n in range(30)]
    weights = [1 / (n + 1) for n in range(30)]

    def words(count: int) -> str:
        return " ".join(choose.choices(vocabulary, weights, k=count))

    return [(words(choose.randrange(4)) or None, words(choose.randrange(1, 20))) for _ in range(count)]


def bm25(texts: list[tuple[str | None, str]], words: list[str]) -> dict[int, float]:
    """label → score of all that match, straight from the formula."""
    scores: dict[int, float] = {}
    for field, boost in ((0, TITLE), (1, 1.0)):
        terms = {label: (text[field] or "").split() for label, text in enumerate(texts, 1)}
        mean = sum(map(len, terms.values())) / len(terms)
        for word in words:
            having = sum(word in own for own in terms.values())
            idf = math.log(1 + (len(terms) - having + 0.5) / (having + 0.5))
            for label, own in terms.items():
                if tf := own.count(word):
                    part = tf * (K1 + 1) / (tf + K1 * (1 - B + B * len(own) / mean))
                    scores[label] = scores.get(label, 0.0) + boost * idf * part
    return scores


# --- order


def test_scores_are_bm25_with_titles_counted_twice_and_come_best_first_with_ties_by_label() -> None:
    texts = random_texts(400, 1)
    with index_of(texts) as index:
        for words in (["w0"], ["w3", "w7"], ["w1", "w12", "w25", "w29"]):
            hits = index.search(" ".join(words), 1000)
            expected = bm25(texts, words)
            assert {hit.label: hit.score for hit in hits} == pytest.approx(expected, rel=1e-4)
            assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.label))
            assert all(hit.doc == 100 + hit.label for hit in hits)
            for k in (1, 3, 17):
                assert index.search(" ".join(words), k) == hits[:k]


def test_of_equal_chunks_the_lowest_labels_are_found_however_few_are_asked_for() -> None:
    index = KeywordIndex()
    order = random.Random(3).sample(range(1, 2001), 2000)
    for part in range(0, 2000, 500):
        index.add((label, 1, None, "the same text") for label in order[part : part + 500])
        index.refresh()
    assert labels(index, "same", 5) == labels(index, "sam*", 5) == [1, 2, 3, 4, 5]
    index.close()


@pytest.fixture(scope="module")
def large() -> Iterator[KeywordIndex]:
    """14,000 chunks; `rare` is in labels up to 300."""
    texts = random_texts(14_000, 2)
    with index_of([(title, text + (" rare" if at < 300 else "")) for at, (title, text) in enumerate(texts)]) as index:
        yield index


@pytest.mark.parametrize("query", ["w2", "w5 w9 w20", '"w0 w1"', "w1*", "w3 -w0", "rare"])
@pytest.mark.parametrize("allowed", [range(5, 6), range(1, 14_001, 7), range(2, 13_000), range(400, 14_001)])
def test_a_filter_returns_the_best_of_those_it_allows_with_unchanged_scores(
    large: KeywordIndex, query: str, allowed: range
) -> None:
    best = [hit for hit in large.search(query, 14_000) if hit.label in allowed]
    for k in (1, 10, 500):
        hits = large.search(query, k, np.array(allowed, np.int64))
        assert [hit.label for hit in hits] == [hit.label for hit in best[:k]]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in best[:k]], rel=1e-5)


def test_nothing_is_found_where_nothing_is_allowed_or_asked_for(large: KeywordIndex) -> None:
    assert large.search("w1", 10, np.array([], np.int64)) == []
    assert large.search("w1", 10, np.array([20_000], np.int64)) == []
    assert large.search("w1", 0) == large.search("", 10) == large.search("nowhere", 10) == []


# --- queries


def test_words_are_alternatives_and_more_of_them_rank_higher() -> None:
    with index_of(["a shard", "a shard with a graph", "nothing", "graph"]) as index:
        hits = index.search("shard graph", 10)
    assert hits[0].label == 2
    assert {hit.label for hit in hits} == {1, 2, 4}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('"write buffer"', [1, 4]),
        ('"write buffer" sealed', [1, 4]),
        ('"writes buffers"', [1, 4]),
        ('"write the buffer"', []),
        ("“write buffer”", [1, 4]),
        ('"buffer', [1, 2, 3, 4]),
        ('sealed"write buffer"', [1, 4]),
        ('"write buffer" "is full"', [1]),
        ("buffer -write", [2]),
        ('buffer -"write buffer"', [2, 3]),
        ("buffer -is-full", [2, 3, 4]),
        ("buffer -fu*", [2, 3, 4]),
        ("-write", []),
        ("buff*", [1, 2, 3, 4]),
        ("buff", []),
        ("b-u*", []),
        ("write-sealed", [1, 2, 3, 4]),
        ("- buffer", [1, 2, 3, 4]),
        ('"* buffer *"', [1, 2, 3, 4]),
    ],
)
def test_a_query_means_what_its_signs_say(query: str, expected: list[int]) -> None:
    texts: list[str | tuple[str | None, str]] = [
        "The write buffer is full",
        "a sealed buffer",
        "buffer, then write",
        ("Write Buffer", "see there"),
    ]
    assert found(query, *texts) == expected


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("zurich", "Nach Zürich"),
        ("ZÜRICH", "zurich"),
        ("Zürich", normalize("NFD", "Zürich")),
        (normalize("NFD", "Zürich"), "Zürich"),
        ("strasse", "Straße"),
        ("istanbul", "İstanbul"),
        ("final", "ﬁnal"),
        ("abc", "ＡＢＣ"),
        ("running", "she runs"),
        ("happines*", "happiness"),
        ("zür*", "Zurich"),
        ("हिन्दी", "यह हिन्दी है"),
        ("שלום", "שָׁלוֹם"),
        ("東京", "私は東京都に住む"),
        ("한국", "한국어"),
        (normalize("NFD", "한국"), "한국어"),
        ("ภาษา", "นี่คือภาษาไทย"),
        ('"京都"', "東京都"),
        ("サーバー", "ｻｰﾊﾞｰ"),
        ("日", "今日"),
        ("don't", "dont DON’T"),
        ("user_id", "the id"),
        ("y", "x\0y"),
        ("y", "\ud800 y"),
    ],
)
def test_the_same_word_is_found_however_it_is_written(query: str, text: str) -> None:
    assert found(query, text, "something else") == [1]


@pytest.mark.parametrize(("query", "text"), [("京東", "東京"), ("大阪", "大きい坂"), ("हिन्द", "हिन्दी"), ("z", "ü")])
def test_other_words_are_not_found(query: str, text: str) -> None:
    assert found(query, text) == []


def test_stemming_is_that_of_the_language_or_none() -> None:
    assert found("Hauses", "die Häuser", stemmer="german") == [1]
    assert found("running", "runs", stemmer="none") == found("Hauses", "die Häuser", stemmer="none") == []
    with pytest.raises(ValueError, match="klingon"):
        KeywordIndex("klingon")


def test_words_too_long_for_the_index_are_left_out_of_text_and_query_alike() -> None:
    long = "x" * 101
    assert found(long, f"a {long} b") == found(long + "*", f"a {long} b") == []
    assert found(f'"a {long} b"', f"a {long} b") == found(f"{long} b", f"a {long} b") == [1]
    assert found("x" * 100, "x" * 100) == found("x" * 99 + "*", "x" * 100) == [1]


@pytest.mark.parametrize("query", ODD)
def test_an_odd_query_is_words_or_nothing(large: KeywordIndex, query: str) -> None:
    assert len(large.search(query, 3)) <= 3
    assert len(highlights(query, query)) <= 200
    if not {'"', "-"} & set(query):
        assert large.search(f"w1 {query}", 3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=20) | st.sampled_from(ODD), max_size=4).map(" ".join))
def test_any_text_is_found_by_each_of_its_words(text: str) -> None:
    folded = fold(text)
    tokens = analyzer("english").pre_tokenize(folded).tokens
    with index_of([text]) as index:
        assert len(index.search(text, 5)) <= 1
        for word in list({folded[token.char_offset_from : token.char_offset_to] for token in tokens})[:20]:
            assert labels(index, word) == [1], word


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=60), st.text(st.characters(), max_size=60))
def test_marks_lie_within_the_text_one_after_another(query: str, text: str) -> None:
    spans = highlights(f"{query} {text}", text)
    places = [place for span in spans for place in span]
    assert places == sorted(places)
    assert all(0 <= start < end <= len(text) for start, end in spans)


def test_a_query_of_very_many_words_is_cut_to_its_first() -> None:
    asked = parse(" ".join(f"w{n} p{n}*" for n in range(500)), "english")
    assert (len(asked.words), len(asked.prefixes)) == (60, 4)
    assert asked.words[:5] == (((0, "w0"),), ((0, "w1"),), ((0, "w2"),), ((0, "w3"),), ((0, "w4"),))
    assert asked.prefixes == ("p0", "p1", "p2", "p3")
    (phrase,) = parse('"' + "y z " * 300 + '"', "english").phrases
    assert len(phrase) == 64


# --- writing


def test_changes_are_found_after_a_refresh_and_not_before() -> None:
    with index_of(["old", "old too"]) as index:
        assert not index.refresh()
        index.add([(3, 9, "New", "new"), (4, 9, None, "new and gone")])
        index.remove([1, 4, 77])
        assert (labels(index, "old new"), index.chunks) == ([1, 2], 2)
        assert index.refresh()
        assert (sorted(labels(index, "old new")), index.chunks) == ([2, 3], 2)
        index.remove([2, 3])
        index.refresh()
        assert (labels(index, "old new"), index.chunks) == ([], 0)


def test_what_a_closed_index_last_held_can_still_be_searched() -> None:
    with index_of(["text"]) as index:
        index.add([(2, 2, None, "text, never refreshed")])
        index.close()
        index.close()
        assert labels(index, "text") == [1]
        with pytest.raises(RuntimeError):
            index.add([(3, 3, None, "text")])


def test_closing_ends_the_threads_of_the_index() -> None:
    process = psutil.Process()
    before = process.num_threads()
    with index_of(["text"]):
        assert process.num_threads() > before
    eventually(lambda: process.num_threads() <= before, within_s=5)


def test_memory_grows_with_the_chunks_and_shrinks_with_them() -> None:
    with index_of(["some text"] * 50) as index:
        small = index.memory_bytes
        index.add((label, 1, None, "some text") for label in range(100, 1000))
        assert index.memory_bytes > small + 1_000_000  # the writer's buffer
        index.refresh()
        full = index.memory_bytes
        index.remove(range(100, 1000))
        index.refresh()
        assert index.memory_bytes == small < full


def test_a_chunk_that_is_replaced_over_and_over_is_always_found_exactly_once() -> None:
    """Searches beside writing see either all of a refresh or nothing of it."""
    index = KeywordIndex()
    index.add((label, label, None, f"crowd {label}") for label in range(1, 500))
    index.add([(500, 7, "target", "target at turn 0")])
    index.refresh()
    newest = [500]

    def write(turn: int) -> None:
        index.add([(newest[0] + 1, 7, "target", f"target at turn {turn}")])
        index.remove([newest[0]])
        index.refresh()
        newest[0] += 1

    def search(_: int) -> None:
        before = newest[0]
        (hit,) = index.search("target", 10)
        assert before <= hit.label <= newest[0] + 1
        assert hit.doc == 7
        assert len(index.search("crow*", 5, np.arange(1, 400))) == 5

    threads = Threads()
    with threads.running(write=write, search=search, search_again=search):
        threads.stop.wait(1.5)
    assert all(rounds > 20 for rounds in threads.rounds.values()), threads.rounds
    index.close()


# --- highlights


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("running", "Run, she runs; runner", ["Run", "runs"]),
        ("shar*", "a shared shard, hard", ["shared", "shard"]),
        ('"write buffer"', "Write the buffers", ["Write", "buffers"]),
        ("how to index the text", "the index to text: how?", ["index", "text"]),
        ("to the", "to index the text", ["to", "the"]),
        ("text -index", "text index", ["text"]),
        ("zurich", "Zürich, Zu\u0308rich!", ["Zürich", "Zu\u0308rich"]),
        ("京都", "東京都と京都、京", ["京都", "京都"]),
        ("東京 y", "x東京x", ["東京"]),
        ("final", "a ﬁnal word", ["ﬁnal"]),
        ("한국", normalize("NFD", "한국어"), [normalize("NFD", "한국")]),
        ("", "text", []),
        ("text", "", []),
        ("text", "\ud800text", ["text"]),
    ],
)
def test_the_words_that_match_are_marked(query: str, text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in highlights(query, text)] == expected


def test_no_more_than_200_words_are_marked() -> None:
    spans = highlights("a b", "b " * 500)
    assert (len(spans), spans[-1]) == (200, (398, 399))


def test_without_stemming_only_the_word_itself_is_marked() -> None:
    assert highlights("runs", "run runs", "none") == [(4, 8)]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), st.text(max_size=10))
def test_a_text_with_something_marked_is_found(text: str, query: str) -> None:
    plain = query.replace('"', " ").replace("-", " ")
    if highlights(plain, text):
        with index_of([text]) as index:
            assert labels(index, plain) == [1]
