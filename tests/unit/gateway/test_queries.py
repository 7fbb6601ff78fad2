"""Queries that wait go through the model together; none is embedded twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest
from numpy.typing import NDArray

from app.gateway.queries import QueryEmbedder
from app.model.hashing import HashingEmbedder
from app.observe.metrics import GatewayMetrics
from app.watchdog import Watchdog
from schemas.errors import BadRequest, EmbedderUnavailable, TextsRefused, UnembeddableText


class Gate(HashingEmbedder):
    """Waits in every call until it is opened; fails on what it is told to fail on."""

    def __init__(self) -> None:
        super().__init__(dim=16)
        self.open = threading.Event()
        self.entered = threading.Event()
        self.seen: list[list[str]] = []
        self.error: Exception | None = None
        self.bad = "bad"

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        self.seen.append(list(texts))
        self.entered.set()
        assert self.open.wait(20)
        if self.error is not None and self.bad in texts:
            raise self.error
        return super().embed(texts)


@pytest.fixture
async def model() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
async def queries(model: Gate) -> AsyncIterator[QueryEmbedder]:
    embedder = QueryEmbedder(model, 100, GatewayMetrics())
    yield embedder
    embedder.close()


async def during_a_call(model: Gate, queries: QueryEmbedder, *texts: str) -> list[asyncio.Task[NDArray[np.float32]]]:
    """Tasks for a first query, which is in the model, and for `texts`, which wait."""
    tasks = [asyncio.create_task(queries.embed("first"))]
    assert await asyncio.to_thread(model.entered.wait, 20)
    tasks += [asyncio.create_task(queries.embed(text)) for text in texts]
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_for_the_model_goes_in_one_call(model: Gate, queries: QueryEmbedder) -> None:
    tasks = await during_a_call(model, queries, "a", "b", "c")
    model.open.set()
    found = await asyncio.gather(*tasks)
    assert model.seen == [["first"], ["a", "b", "c"]]
    assert np.array_equal(found[2], HashingEmbedder(dim=16).embed(["b"])[0])


async def test_equal_queries_are_embedded_once_waiting_in_the_model_or_known(
    model: Gate, queries: QueryEmbedder
) -> None:
    tasks = await during_a_call(model, queries, "a", "first", "a")
    model.open.set()
    found = await asyncio.gather(*tasks)
    assert np.array_equal(found[1], found[3])
    await queries.embed("a")
    assert model.seen == [["first"], ["a"]]


async def test_at_most_sixteen_go_together(model: Gate, queries: QueryEmbedder) -> None:
    tasks = await during_a_call(model, queries, *(f"q{number}" for number in range(40)))
    model.open.set()
    await asyncio.gather(*tasks)
    assert [len(call) for call in model.seen] == [1, 16, 16, 8]


@pytest.mark.parametrize("error", [UnembeddableText("no", 0), TextsRefused("no")])
async def test_a_query_that_the_model_refuses_fails_alone_and_says_so(
    model: Gate, queries: QueryEmbedder, error: Exception
) -> None:
    model.error = error
    tasks = await during_a_call(model, queries, "a", "bad", "c")
    model.open.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[2], BadRequest)
    assert all(isinstance(found[at], np.ndarray) for at in (0, 1, 3))


async def test_a_model_that_is_away_is_asked_once_for_all_that_wait(model: Gate, queries: QueryEmbedder) -> None:
    model.error = EmbedderUnavailable("away")
    tasks = await during_a_call(model, queries, "a", "bad", "c")
    model.open.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, EmbedderUnavailable) for one in found] == [False, True, True, True]
    assert len(model.seen) == 2
    model.error = None
    assert (await queries.embed("bad")).shape == (16,)


async def test_a_client_that_goes_away_takes_nothing_from_the_others(model: Gate, queries: QueryEmbedder) -> None:
    tasks = await during_a_call(model, queries, "a", "a", "b")
    tasks[0].cancel()
    tasks[1].cancel()
    model.open.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[2].shape == found[3].shape == (16,)  # type: ignore[union-attr]


async def test_a_model_that_hangs_is_told(model: Gate) -> None:
    now = [0.0]
    queries = QueryEmbedder(model, 10, GatewayMetrics(), Watchdog(100, lambda: now[0]))
    tasks = await during_a_call(model, queries)
    assert queries.trouble is None
    now[0] = 30
    assert queries.trouble == "a query vector has taken 30 s so far; after 100 s the process ends"
    model.open.set()
    await asyncio.gather(*tasks)
    assert queries.trouble is None
    queries.close()
