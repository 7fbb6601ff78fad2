from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from app.model.chunker import CHUNKER_VERSION
from app.model.server.answer import retry_after_s
from app.model.server.embedder import HttpEmbedder
from app.model.server.retry import Timing
from app.settings import Settings
from schemas.errors import EmbedderUnavailable, HeadraceError, ModelMissing, ServiceMissing, UnembeddableText
from tests.embeddings_server import Asked, EmbeddingsServer, Rule, answer, no_rule, refusal

KEY = "sk-never-to-be-seen-0123456789"
MANY = [f"{'mill ' * (1 + 7 * n % 5)}number {n}" for n in range(20)]  # more than searches go together
Make = Callable[..., HttpEmbedder]


class Watch:
    """A clock that sleeping moves on; while the gate is closed, sleepers stay asleep."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []
        self.chance = 0.5
        self.gate = threading.Event()
        self.gate.set()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await comes_true(self.gate.is_set)
        self.now_s += seconds
        await asyncio.sleep(0)

    @property
    def timing(self) -> Timing:
        return Timing(lambda: self.now_s, self.sleep, lambda: self.chance)


async def comes_true(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true() and time.monotonic() < deadline:  # noqa: ASYNC110 - what is waited for is in another thread
        await asyncio.sleep(0.001)


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    with EmbeddingsServer() as server:
        yield server


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def make(server: EmbeddingsServer, watch: Watch) -> Iterator[Make]:
    made: list[HttpEmbedder] = []

    def make(**changes: Any) -> HttpEmbedder:
        made.append(HttpEmbedder(settings(changes.pop("url", server.url), **changes), watch.timing))
        server.asked.clear()
        server.busiest = 0
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


def settings(url: str, **changes: Any) -> Settings:
    given = {"runtime": "http", "model": "org/some-model", "embeddings_api_key": KEY} | changes
    return Settings(_env_file=None, embeddings_url=url, **given)


def always(make_answer: Callable[[], web.Response]) -> Rule:
    async def rule(_: Asked) -> web.Response | None:
        return make_answer()

    return rule


def first(count: int, make_answer: Callable[[], web.Response]) -> Rule:
    """The first `count` requests from now on are answered so."""
    left = [None] * count

    async def rule(_: Asked) -> web.Response | None:
        return make_answer() if left and (left.pop() is None) else None

    return rule


def on(word: str, make_answer: Callable[[], web.Response]) -> Rule:
    """Requests with a text that has the word are answered so."""

    async def rule(asked: Asked) -> web.Response | None:
        return make_answer() if any(word in text for text in asked.texts) else None

    return rule


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# --- what it asks for, and what it makes of the answers


def test_vectors_come_in_the_order_of_the_texts_from_batches_of_similar_length(
    make: Make, server: EmbeddingsServer
) -> None:
    vectors = make(embeddings_batch_texts=3).embed(MANY)

    assert np.allclose(vectors, server.vectors(MANY), atol=1e-6)
    assert sorted(len(asked.texts) for asked in server.asked) == [2, 3, 3, 3, 3, 3, 3]
    assert sorted(text for asked in server.asked for text in asked.texts) == sorted(MANY)
    ranges = sorted((min(map(len, asked.texts)), max(map(len, asked.texts))) for asked in server.asked)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


def test_as_many_requests_as_allowed_are_in_flight_and_no_more(make: Make, server: EmbeddingsServer) -> None:
    async def together(_: Asked) -> None:
        await comes_true(lambda: server.busiest >= 3)

    embedder = make(embeddings_batch_texts=1, embeddings_concurrency=3)
    server.rule = together
    embedder.embed(MANY)

    assert server.busiest == 3
    assert len(server.asked) == len(MANY)


def test_the_request_is_what_the_api_asks_for(make: Make, server: EmbeddingsServer) -> None:
    make(embeddings_dimensions=64).embed(["a mill"])
    (asked,) = server.asked

    assert asked.body == {
        "model": "org/some-model",
        "input": ["a mill"],
        "encoding_format": "base64",
        "dimensions": 64,
    }
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"] == "application/json"


def test_without_a_key_none_is_sent(make: Make, server: EmbeddingsServer) -> None:
    make(embeddings_api_key="").embed(["a mill"])
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize("refused", [(), ("base64",), ("base64", "float")])
@pytest.mark.parametrize("floats_only", [False, True])
def test_vectors_as_base64_and_as_numbers_are_the_same(
    make: Make, server: EmbeddingsServer, refused: tuple[str, ...], floats_only: bool
) -> None:
    async def rule(asked: Asked) -> web.Response | None:
        wanted = asked.body.get("encoding_format")
        return refusal(400, f"{wanted} encoding is not currently supported") if wanted in refused else None

    server.rule, server.floats_only = rule, floats_only
    vectors = make().embed(MANY)

    assert np.allclose(vectors, server.vectors(MANY), atol=1e-6)
    assert len(server.asked) == 1


def test_a_gateway_that_answers_500_to_the_encoding_is_asked_without(make: Make, server: EmbeddingsServer) -> None:
    async def rule(asked: Asked) -> web.Response | None:
        wanted = "encoding_format" in asked.body
        return refusal(500, "UnsupportedParamsError: encoding_format is not supported") if wanted else None

    server.rule = rule
    assert np.allclose(make().embed(MANY), server.vectors(MANY), atol=1e-6)


@pytest.mark.parametrize("first_index", [{"index": 0}, {}])
def test_vectors_are_taken_by_their_index(make: Make, server: EmbeddingsServer, first_index: dict[str, int]) -> None:
    async def backwards(asked: Asked) -> web.Response:
        rows = [{"index": n, "embedding": row.tolist()} for n, row in enumerate(server.vectors(asked.texts))]
        rows[0] = {"embedding": rows[0]["embedding"], **first_index}
        return web.json_response({"data": rows[::-1]})

    embedder = make()
    server.rule = backwards
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)


def test_vectors_of_any_length_are_scaled_to_one(make: Make, server: EmbeddingsServer) -> None:
    async def long(asked: Asked) -> web.Response:
        return answer(server.vectors(asked.texts) * 1e25)

    embedder = make()
    server.rule = long
    assert np.allclose(np.linalg.norm(embedder.embed(MANY), axis=1), 1)


def test_an_empty_text_is_sent_as_a_space(make: Make, server: EmbeddingsServer) -> None:
    make().embed(["", "a mill"])
    assert server.asked[0].texts == ["a mill", " "]


def test_a_text_that_is_too_long_is_cut_before_it_is_sent(make: Make, server: EmbeddingsServer) -> None:
    embedder = make(max_chunk_tokens=16)
    embedder.embed(["mill " * 20, "é" * 20, "😀" * 20])
    assert sorted(server.asked[0].texts) == sorted(["mill " * 14, "é" * 14, "😀" * 4])


def test_the_fingerprint_tells_models_and_lengths_apart_but_not_urls(make: Make, server: EmbeddingsServer) -> None:
    name, _, rest = make().fingerprint.partition("@")

    assert name == "some-model"
    assert rest.split("/")[1:] == ["64", "server", "norm", "float", CHUNKER_VERSION]
    with EmbeddingsServer(32) as shorter, EmbeddingsServer(64) as other:
        assert make(url=other.url).fingerprint == f"{name}@{rest}"
        assert make(url=shorter.url).fingerprint == f"{name}@{rest.replace('/64/', '/32/')}"
    assert make(model="others/some-model").fingerprint not in f"{name}@{rest}"


# --- asking again


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_asked_again(make: Make, server: EmbeddingsServer, watch: Watch, status: int) -> None:
    embedder = make()
    server.rule = first(2, lambda: refusal(status))

    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)
    assert len(server.asked) == 3
    assert watch.slept == [0.125, 0.25]


@pytest.mark.parametrize(("chance", "sleeps"), [(0.0, []), (0.999, [0.25, 0.5, 1.0, 2.0, 4.0])])
def test_the_back_off_is_drawn_between_nothing_and_a_bound_that_doubles(
    make: Make, server: EmbeddingsServer, watch: Watch, chance: float, sleeps: list[float]
) -> None:
    watch.chance = chance
    embedder = make()
    server.rule = first(5, lambda: refusal(503))
    embedder.embed(MANY)
    assert watch.slept == pytest.approx(sleeps, rel=0.01)


@pytest.mark.parametrize("headers", [{"Retry_After": "7"}, {"Retry_After": "99", "retry_after_ms": "7000"}])
@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_a_server_asks_for_is_kept(
    make: Make, server: EmbeddingsServer, watch: Watch, status: int, headers: dict[str, str]
) -> None:
    embedder = make()
    server.rule = first(1, lambda: refusal(status, **headers))
    embedder.embed(MANY)
    assert 7 <= sum(watch.slept) < 8


def test_the_wait_may_be_given_as_seconds_a_date_or_nonsense() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=90), usegmt=True)

    def read(**headers: str) -> float | None:
        return retry_after_s({name.replace("_", "-"): value for name, value in headers.items()}, now.timestamp())

    assert read(Retry_After="1.5") == 1.5
    assert read(Retry_After=date) == 90
    assert read(Retry_After=format_datetime(now - timedelta(seconds=90), usegmt=True)) == 0
    assert read(Retry_After=date.replace("GMT", "-0000")) == 90
    assert read(Retry_After="-3") == 0
    assert read(retry_after_ms="250", Retry_After="1") == 0.25
    assert [read(), *(read(Retry_After=value) for value in ("", "soon", "inf", "nan"))] == [None] * 5


def test_a_date_to_wait_for_is_kept(make: Make, server: EmbeddingsServer, watch: Watch) -> None:
    embedder = make()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    server.rule = first(1, lambda: refusal(429, Retry_After=date))
    embedder.embed(MANY)
    assert 5 < sum(watch.slept) < 21


def test_a_wait_that_is_too_long_ends_the_call_at_once_and_holds_for_the_next(
    make: Make, server: EmbeddingsServer, watch: Watch
) -> None:
    embedder = make()
    server.rule = first(1, lambda: refusal(429, "quota", Retry_After="300"))

    for _ in range(3):
        with pytest.raises(EmbedderUnavailable, match="quota; it asks to wait 300 s"):
            embedder.embed(MANY)
    assert watch.slept == []
    assert len(server.asked) == 1
    watch.now_s += 300
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)


def test_a_429_stops_the_other_requests_as_well(make: Make, server: EmbeddingsServer, watch: Watch) -> None:
    async def first_is_too_many(asked: Asked) -> web.Response | None:
        if asked.number == 0:
            return refusal(429, Retry_After="5")
        await comes_true(lambda: bool(watch.slept))
        return None

    embedder = make(embeddings_batch_texts=1, embeddings_concurrency=2)
    server.rule = first_is_too_many
    watch.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        vectors = pool.submit(embedder.embed, MANY)
        wait_until(lambda: len(watch.slept) == 2)  # the one refused, and the one whose place came free

        assert len(server.asked) == 2
        watch.gate.set()
        assert np.allclose(vectors.result(30), server.vectors(MANY), atol=1e-6)
    assert min(watch.slept) >= 5


@pytest.mark.parametrize("queries", [1, 16])
def test_somebody_who_searches_does_not_wait_long(
    make: Make, server: EmbeddingsServer, watch: Watch, queries: int
) -> None:
    embedder = make()
    server.rule = first(1, lambda: refusal(429, Retry_After="3"))
    with pytest.raises(EmbedderUnavailable):
        embedder.embed(MANY[:queries])
    assert watch.slept == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 424])
def test_a_server_that_fails_for_ever_is_unavailable_after_a_bounded_number_of_requests(
    make: Make, server: EmbeddingsServer, watch: Watch, status: int
) -> None:
    embedder = make()
    server.rule = always(lambda: refusal(status, "out of order"))

    with pytest.raises(EmbedderUnavailable, match=f"status {status}: out of order"):
        embedder.embed(MANY)
    assert len(server.asked) in (6, 12)  # where a text may be the reason, a harmless one is tried as well
    assert sum(watch.slept) < 60


def test_a_server_that_does_not_answer_in_time_is_unavailable(make: Make, server: EmbeddingsServer) -> None:
    async def silent(_: Asked) -> None:
        await server.gone.wait()

    embedder = make(embeddings_timeout_ms=200)
    server.rule = silent
    with pytest.raises(EmbedderUnavailable, match="no answer within 200 ms"):
        embedder.embed(MANY)
    server.rule = no_rule
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)


def test_a_server_that_dies_is_unavailable_until_it_is_back(make: Make, server: EmbeddingsServer) -> None:
    embedder = make()
    server.stop()
    with pytest.raises(EmbedderUnavailable, match=r"Connection refused|Cannot connect"):
        embedder.embed(MANY)
    server.start()
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)


def test_a_server_that_allows_little_at_a_time_gets_through_everything_once(
    make: Make, server: EmbeddingsServer, watch: Watch
) -> None:
    allowed = [2]
    answered: list[str] = []

    async def meter(asked: Asked) -> web.Response | None:
        if not allowed[0]:
            return refusal(429, Retry_After="60")
        allowed[0] -= 1
        answered.extend(asked.texts)
        return None

    embedder = make(embeddings_batch_texts=1, embeddings_concurrency=1)
    server.rule = meter
    for _ in range(9):
        with pytest.raises(EmbedderUnavailable):
            embedder.embed(MANY)
        watch.now_s += 61
        allowed[0] = 2
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)
    assert sorted(answered) == sorted(MANY)


# --- answers that are none


def not_finite(asked: Asked, server: EmbeddingsServer) -> web.Response:
    return answer(server.vectors(asked.texts) * np.nan)


GARBAGE: dict[str, Callable[[], web.Response]] = {
    "a page": lambda: web.Response(text="<html>Welcome</html>", content_type="text/html"),
    "nothing": lambda: web.Response(),
    "no data": lambda: web.json_response({}),
    "a list": lambda: web.json_response([1, 2]),
    "too few": lambda: answer(np.ones((0, 64), np.float32)),
    "too many": lambda: answer(np.ones((21, 64), np.float32)),
    "twice the same index": lambda: web.json_response({"data": [{"index": 0, "embedding": [1.0]}] * 20}),
    "different lengths": lambda: web.json_response(
        {"data": [{"index": n, "embedding": [1.0] * (n + 1)} for n in range(20)]}
    ),
    "another length": lambda: answer(np.ones((20, 32), np.float32)),
    "no numbers": lambda: web.json_response({"data": [{"index": n, "embedding": ["x"]} for n in range(20)]}),
    "no base64": lambda: web.json_response({"data": [{"index": n, "embedding": "%%%"} for n in range(20)]}),
    "half a number": lambda: web.json_response({"data": [{"index": n, "embedding": "AAA="} for n in range(20)]}),
    "empty vectors": lambda: answer(np.ones((20, 0), np.float32)),
    "payment required": lambda: refusal(402),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_an_answer_that_is_none_embeds_nothing_and_may_be_asked_for_again(
    make: Make, server: EmbeddingsServer, garbage: str
) -> None:
    embedder = make()
    server.rule = always(GARBAGE[garbage])
    with pytest.raises(EmbedderUnavailable, match=f"server at {server.url}/embeddings"):
        embedder.embed(MANY)
    assert len(server.asked) == 1
    server.rule = no_rule
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 0.0, 1e300])
def test_a_text_without_a_usable_vector_is_named_alone(make: Make, server: EmbeddingsServer, value: Any) -> None:
    async def rule(asked: Asked) -> web.Response:
        rows = server.vectors(asked.texts).tolist()
        rows = [[value] * 64 if "poison" in text else row for row, text in zip(rows, asked.texts, strict=True)]
        return web.json_response({"data": [{"index": n, "embedding": row} for n, row in enumerate(rows)]})

    embedder = make()
    server.rule = rule
    with pytest.raises(UnembeddableText, match="not finite or has no direction") as caught:
        embedder.embed([*MANY, "poison", *MANY])
    assert caught.value.position == 20


def test_a_server_whose_vectors_are_all_broken_is_unavailable(make: Make, server: EmbeddingsServer) -> None:
    async def rule(asked: Asked) -> web.Response:
        return not_finite(asked, server)

    embedder = make()
    server.rule = rule
    with pytest.raises(EmbedderUnavailable, match="refuses any text"):
        embedder.embed(MANY)


# --- texts that are refused


@pytest.mark.parametrize("status", [400, 413, 422, 500, 424])
def test_a_text_the_server_refuses_is_named_and_the_others_are_not_paid_for_twice(
    make: Make, server: EmbeddingsServer, status: int
) -> None:
    texts = [f"text {n}" for n in range(40)]
    texts[17] = "poison"
    embedder = make(embeddings_batch_texts=16)
    server.rule = on("poison", lambda: refusal(status, "the input is too long: " + "x" * 1000))

    with pytest.raises(UnembeddableText, match=f"status {status}: the input is too long") as caught:
        embedder.embed(texts)
    assert caught.value.position == 17
    assert len(caught.value.reason) < 300
    server.asked.clear()
    others = texts[:17] + texts[18:]
    assert np.allclose(embedder.embed(others), server.vectors(others), atol=1e-6)
    assert server.asked == []


def test_of_several_refused_texts_the_first_is_named(make: Make, server: EmbeddingsServer) -> None:
    embedder = make(embeddings_batch_texts=4)
    server.rule = on("poison", lambda: refusal(400))
    with pytest.raises(UnembeddableText) as caught:
        embedder.embed(["a mill", "a poison", *MANY, "another poison that is longer"])
    assert caught.value.position == 1


def test_a_server_that_refuses_everything_gives_up_no_text(make: Make, server: EmbeddingsServer) -> None:
    embedder = make(embeddings_batch_texts=2, embeddings_concurrency=2)
    server.rule = always(lambda: refusal(400, "model not loaded"))
    for texts in (MANY, ["alone"]):
        server.asked.clear()
        with pytest.raises(EmbedderUnavailable, match=r"refuses any text with model 'org/some-model'.*not loaded"):
            embedder.embed(texts)
        assert len(server.asked) <= 11  # the requests that waited already, and a harmless text


def test_a_text_that_fails_now_and_then_with_500_is_not_given_up(make: Make, server: EmbeddingsServer) -> None:
    left = [7]  # six attempts, and one when the harmless text had passed

    async def rule(asked: Asked) -> web.Response | None:
        if "unlucky" not in asked.texts or not left[0]:
            return None
        left[0] -= 1
        return refusal(500)

    embedder = make(embeddings_batch_texts=1)
    server.rule = rule
    texts = [*MANY, "unlucky"]
    assert np.allclose(embedder.embed(texts), server.vectors(texts), atol=1e-6)
    assert left == [0]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_too_large_is_halved_and_the_size_remembered(
    make: Make, server: EmbeddingsServer, status: int
) -> None:
    async def at_most_three(asked: Asked) -> web.Response | None:
        return refusal(status, "batch size > maximum") if len(asked.texts) > 3 else None

    embedder = make()
    server.rule = at_most_three
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)
    server.asked.clear()
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)
    assert max(len(asked.texts) for asked in server.asked) == 3
    assert len(server.asked) == 7


# --- at the start


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, ModelMissing, "refuses the key (HEADRACE_EMBEDDINGS_API_KEY)"),
        (403, ModelMissing, "refuses the key (HEADRACE_EMBEDDINGS_API_KEY)"),
        (404, ModelMissing, "HEADRACE_EMBEDDINGS_URL"),
        (405, ModelMissing, "no model 'org/some-model'"),
        (400, ModelMissing, "check HEADRACE_MODEL"),
        (402, ModelMissing, "does not answer as the embeddings API does"),
        (429, ServiceMissing, "status 429"),
        (503, ServiceMissing, "start it, or correct the URL"),
    ],
)
def test_a_wrong_set_up_ends_the_start_with_one_sentence(
    make: Make, server: EmbeddingsServer, status: int, error: type[HeadraceError], words: str
) -> None:
    server.rule = always(lambda: refusal(status, "told\nyou"))
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)
    assert f"{server.url}/embeddings" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not living_threads()


def test_no_server_ends_the_start_with_what_to_do(make: Make) -> None:
    port = free_port()
    with pytest.raises(ServiceMissing, match=rf"127\.0\.0\.1:{port}.*HEADRACE_EMBEDDINGS_URL.*start it"):
        make(url=f"http://127.0.0.1:{port}/v1")
    assert not living_threads()


@pytest.mark.parametrize("garbage", ["a page", "no data", "too few", "twice the same index", "no base64"])
def test_a_server_of_another_kind_is_no_model(make: Make, server: EmbeddingsServer, garbage: str) -> None:
    server.rule = always(GARBAGE[garbage])
    with pytest.raises(ModelMissing, match="does not answer as the embeddings API does"):
        make()


def test_a_server_that_cannot_shorten_vectors_is_told_apart(make: Make) -> None:
    with pytest.raises(ModelMissing, match="64 dimensions where 32 were asked for: unset HEADRACE_EMBEDDINGS_DIM"):
        make(embeddings_dimensions=32)


def test_a_redirect_is_not_followed(make: Make, server: EmbeddingsServer) -> None:
    with EmbeddingsServer() as thief:
        embedder = make()
        server.rule = always(lambda: refusal(307, Location=f"{thief.url}/embeddings?token=secret"))
        with pytest.raises(EmbedderUnavailable, match=f"a redirect to {thief.url}/embeddings, which"):
            embedder.embed(MANY)
        with pytest.raises(ModelMissing, match="a redirect to"):
            make()
        assert thief.asked == []


def test_a_key_that_expires_gives_up_no_text(make: Make, server: EmbeddingsServer) -> None:
    embedder = make()
    server.rule = always(lambda: refusal(401))
    with pytest.raises(EmbedderUnavailable, match="refuses the key"):
        embedder.embed(MANY)
    assert len(server.asked) == 1
    server.rule = no_rule
    assert np.allclose(embedder.embed(MANY), server.vectors(MANY), atol=1e-6)


@pytest.mark.parametrize("tail", ["/", "/embeddings", "?api-version=1"])
def test_the_url_may_be_written_in_several_ways(make: Make, server: EmbeddingsServer, tail: str) -> None:
    assert make(url=server.url + tail).embed(MANY).shape == (20, 64)


# --- the key


async def hang_up(asked: Asked) -> web.Response:
    asked.hang_up()
    return web.Response()


def quote(asked: Asked, status: int) -> web.Response:
    said = f"You sent {asked.headers['Authorization']} with {asked.body['input']}"
    return refusal(status, said, Location=f"http://127.0.0.1:1/{KEY}", Retry_After="0")


def leaks(error: BaseException | None) -> list[str]:
    """Everything that a log could show of an error and of those behind it."""
    if error is None:
        return []
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    behind = [leaks(each) for each in (error.__cause__, error.__context__, *inner)]
    return [repr(error), str(error), repr(vars(error)), *(line for lines in behind for line in lines)]


STATUSES = [307, 400, 401, 402, 403, 404, 413, 422, 429, 500, 503]


@pytest.mark.parametrize("trouble", [*STATUSES, "garbage", "died", "silent", "reset"])
@pytest.mark.parametrize("when", ["at the start", "later"])
def test_the_key_is_in_no_message_no_error_and_no_log(
    make: Make, server: EmbeddingsServer, caplog: pytest.LogCaptureFixture, trouble: int | str, when: str
) -> None:
    caplog.set_level(logging.DEBUG)
    rules: dict[int | str, Callable[[Asked], Awaitable[web.Response | None]]] = {
        "garbage": always(lambda: web.Response(text=f"Bearer {KEY}")),
        "reset": hang_up,
    }

    async def rule(asked: Asked) -> web.Response | None:
        if trouble == "silent":
            await server.gone.wait()
        return quote(asked, int(trouble)) if isinstance(trouble, int) else await rules[trouble](asked)

    embedder = make(embeddings_timeout_ms=150) if when == "later" else None
    server.rule = rule
    if trouble == "died":
        server.stop()
    with pytest.raises(HeadraceError) as caught:
        embedder.embed(["one text", KEY[::-1]]) if embedder else make(embeddings_timeout_ms=150)

    lines = [*leaks(caught.value), *traceback.format_exception(caught.value), caplog.text, repr(embedder)]
    assert [line for line in lines if KEY in line] == []
    assert str(caught.value)
    if trouble in (400, 422, 500, 503):
        assert "You sent Bearer ***" in str(caught.value)


def test_secrets_in_the_url_are_not_shown_either(make: Make, server: EmbeddingsServer) -> None:
    url = server.url.replace("http://", "http://user:pass-of-mine@") + "?api-key=0123456789abc"
    embedder = make(url=url, embeddings_api_key="")
    server.rule = always(lambda: refusal(403, "0123456789abc"))
    with pytest.raises(EmbedderUnavailable) as caught:
        embedder.embed(MANY)
    assert [secret for secret in ("pass-of-mine", "0123456789abc") if secret in str(caught.value)] == []
    assert server.asked[0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("key", [f"{KEY}\nX-Evil: 1", f"{KEY}é"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(make: Make, key: str) -> None:
    with pytest.raises(HeadraceError, match="HEADRACE_EMBEDDINGS_API_KEY") as caught:
        make(embeddings_api_key=key)
    assert KEY not in "".join(leaks(caught.value))


# --- the end


def living_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("embeddings-http", "embeddings-n"))]


def test_close_ends_the_threads_and_may_be_repeated(make: Make, server: EmbeddingsServer) -> None:
    embedder = make(url=server.url.replace("127.0.0.1", "localhost"))
    embedder.embed(MANY)
    assert living_threads()
    embedder.close()
    embedder.close()
    assert not living_threads()
    with pytest.raises(EmbedderUnavailable, match="closed"):
        embedder.embed(MANY)


def test_close_ends_a_call_in_flight(make: Make, server: EmbeddingsServer) -> None:
    async def silent(_: Asked) -> None:
        await server.gone.wait()

    embedder = make()
    server.rule = silent
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(embedder.embed, MANY)
        wait_until(lambda: len(server.asked) == 1)
        embedder.close()
        with pytest.raises(EmbedderUnavailable, match="closed"):
            call.result(30)
    assert not living_threads()
