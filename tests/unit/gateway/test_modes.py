"""POST /search by meaning, by keywords and by both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.model.hashing import HashingEmbedder
from schemas.search import SearchResponse
from tests.unit.gateway.parts import DIM, FakeWorker, gateway, hit, said


class CountingEmbedder(HashingEmbedder):
    """Counts the texts it is given; broken: fails at each."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__(DIM)
        self.given: list[str] = []
        self.broken = broken

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.broken:
            raise RuntimeError("the model is broken")
        self.given += texts
        return super().embed(texts)


def scores(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(item["id"], item["vector_score"], item["keyword_score"]) for item in answer["hits"]]


@pytest.mark.parametrize(
    ("body", "mode", "query", "embedded"),
    [
        ({"query": "mill"}, "hybrid", "mill", ["mill"]),
        ({"query": "mill", "mode": "hybrid"}, "hybrid", "mill", ["mill"]),
        ({"query": "mill", "mode": "vector"}, "vector", None, ["mill"]),
        ({"query": "mill", "mode": "keyword"}, "keyword", "mill", []),
        ({"vector": [1.0] * DIM}, "vector", None, []),
        ({"vector": [1.0] * DIM, "query": "mill"}, "hybrid", "mill", []),
        ({"vector": [1.0] * DIM, "query": "mill", "mode": "vector"}, "vector", None, []),
        ({"vector": [1.0] * DIM, "query": "mill", "mode": "keyword"}, "keyword", "mill", []),
    ],
)
async def test_the_shards_are_sent_what_the_mode_needs_and_the_model_is_called_for_that_only(
    body: dict[str, Any], mode: str, query: str | None, embedded: list[str]
) -> None:
    worker, embedder = FakeWorker(1, 0), CountingEmbedder()
    async with gateway(worker, embedder=embedder) as served:
        answer = await served.search(**body)
        assert answer["mode"] == mode
        (asked,) = worker.asked
        assert (asked["mode"], asked["query"]) == (mode, query)
        assert (asked["vector"] is None) == (mode == "keyword")
        assert (asked["fingerprint"] is None) == (not embedded)
        assert embedder.given == embedded


async def test_a_search_by_keywords_needs_no_model() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(hit("a", None, 3.5))
    async with gateway(worker, embedder=CountingEmbedder(broken=True)) as served:
        await served.refused(500, query="mill")
        assert scores(await served.search(query="mill", mode="keyword")) == [("a", None, 3.5)]


async def test_by_keywords_the_hits_are_sorted_by_their_bm25_score() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.shards[0] = said(hit("a", None, 2.0), hit("b", None, 1.0))
    two.shards[1] = said(hit("c", None, 3.0), hit("0", None, 1.0))
    async with gateway(one, two) as served:
        answer = await served.search(mode="keyword", k=4)
        assert [(item["id"], item["score"]) for item in answer["hits"]] == [
            ("c", 3.0),
            ("a", 2.0),
            ("0", 1.0),
            ("b", 1.0),
        ]
        SearchResponse.model_validate(answer, strict=True)


async def test_a_hybrid_answer_fuses_the_ranks_over_all_shards_and_is_cut_to_k() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.shards[0] = said(hit("first by meaning", 0.9), hit("second in both", 0.8, 4.0))
    two.shards[1] = said(hit("first by keywords", None, 5.0), hit("last", 0.1, 0.5))
    async with gateway(one, two) as served:
        answer = await served.search(k=3)
        assert scores(answer) == [
            ("second in both", 0.8, 4.0),
            ("last", 0.1, 0.5),
            ("first by keywords", None, 5.0),
        ]
        assert [item["score"] for item in answer["hits"]] == pytest.approx([2 / 62, 2 / 63, 1 / 61])
        assert [(item["vector_rank"], item["keyword_rank"]) for item in answer["hits"]] == [(2, 2), (3, 3), (None, 1)]
        SearchResponse.model_validate(answer, strict=True)


async def test_a_hybrid_answer_without_a_shard_is_partial_and_ranks_what_is_there() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.shards[0] = said(hit("a", 0.2, 1.0))
    two.shards[1] = said(hit("b", 0.9, 9.0))
    async with gateway(one, two) as served:
        two.answers = 500
        answer = await served.search()
        assert (answer["mode"], answer["partial"], list(answer["missing_shards"])) == ("hybrid", True, ["1"])
        assert [(item["id"], item["vector_rank"], item["keyword_rank"]) for item in answer["hits"]] == [("a", 1, 1)]


async def test_a_hit_shows_up_to_three_chunks_with_their_highlights() -> None:
    chunks = [
        {"text": "the mill race", "start": 10, "end": 23, "score": 3.0},
        {"text": "no word of it", "start": 0, "end": 9, "score": 2.0},
    ]
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(hit("a", 0.9, 2.0, text="the mill race", chunks=chunks))
    async with gateway(worker) as served:
        (found,) = (await served.search(query="mill"))["hits"]
        assert found["highlights"] == [{"start": 4, "end": 8}]
        assert found["chunks"] == [chunks[0] | {"highlights": [{"start": 4, "end": 8}]}, chunks[1] | {"highlights": []}]


async def test_a_document_that_is_only_a_title_has_no_chunks_to_show() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(hit("a", 0.9, text="", chunks=[]))
    async with gateway(worker) as served:
        (found,) = (await served.search(query="mill"))["hits"]
        assert (found["text"], found["highlights"], found["chunks"]) == ("", [], [])


async def test_the_query_is_marked_in_every_mode_that_has_one() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(hit("a", 0.9, 2.0, text="the mill"))
    async with gateway(worker) as served:
        for mode in ("vector", "keyword", "hybrid"):
            answer = await served.search(query="mill", mode=mode)
            assert answer["hits"][0]["highlights"] == [{"start": 4, "end": 8}], mode
        answer = await served.search(query="mill", vector=[1.0] * DIM, mode="vector")
        assert answer["hits"][0]["highlights"] == [{"start": 4, "end": 8}]


async def test_a_search_for_many_documents_is_answered_like_one_for_few() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(*(hit(f"d{number:03}", 1 - number / 100, text="the mill") for number in range(60)))
    async with gateway(worker) as served:
        few, many = await served.search(query="mill", k=10), await served.search(query="mill", k=1000)
        assert len(many["hits"]) == 60
        assert many["hits"][:10] == few["hits"]
