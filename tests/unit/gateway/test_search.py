"""POST /search over several index workers: merged, complete or honest about what is missing."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest

from schemas.search import SearchResponse
from tests.unit.gateway.parts import (
    DIM,
    IN_TIME_S,
    SHARD_TIMEOUT_MS,
    FakeWorker,
    gateway,
    hit,
    message,
    now_ms,
    said,
    within,
)


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["hits"]]


async def test_hits_of_all_shards_are_merged_by_score_and_cut_to_k() -> None:
    one, two = FakeWorker(3, 0, 2), FakeWorker(3, 1)
    one.shards |= {0: said(hit("a", 0.9), hit("b", 0.5)), 2: said(hit("c", 0.7))}
    two.shards[1] = said(hit("d", 0.8), hit("e", 0.7))
    async with gateway(one, two) as served:
        answer = await served.search(k=4, mode="vector")
        assert ids(answer) == ["a", "d", "c", "e"]
        assert [item["score"] for item in answer["hits"]] == [0.9, 0.8, 0.7, 0.7]
        assert (answer["partial"], answer["missing_shards"]) == (False, {})
        assert [sorted(body["shards"]) for body in (*one.asked, *two.asked)] == [[0, 2], [1]]
        SearchResponse.model_validate(answer, strict=True)


async def test_a_document_in_two_shards_is_one_hit_the_better_one() -> None:
    """Its producer has changed the partitioner."""
    worker = FakeWorker(2, 0, 1)
    worker.shards = {0: said(hit("a", 0.6), hit("b", 0.5)), 1: said(hit("a", 0.8, shard=1))}
    async with gateway(worker) as served:
        answer = await served.search(k=2, mode="vector")
        assert [(item["id"], item["score"], item["shard"]) for item in answer["hits"]] == [("a", 0.8, 1), ("b", 0.5, 0)]


async def test_the_question_reaches_the_shards_as_it_was_asked() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(unknown_fields=[], known_fields=["lang"])
    async with gateway(worker) as served:
        await served.search(
            vector=[3.0] + [0.0] * (DIM - 2) + [4.0],
            k=7,
            filter={"lang": "en"},
            min_offsets={"0": 5},
            max_staleness_ms=99,
            timeout_ms=77,
        )
        (body,) = worker.asked
        vector = np.frombuffer(base64.b64decode(body.pop("vector")), np.float32)
        assert vector == pytest.approx([0.6] + [0] * (DIM - 2) + [0.8])
        assert body == {
            "shards": [0],
            "mode": "vector",
            "query": None,
            "fingerprint": None,
            "k": 7,
            "filter": {"lang": "en"},
            "min_offsets": {"0": 5},
            "max_staleness_ms": 99,
            "timeout_ms": 77,
        }
        await served.search(query="mills")
        assert worker.asked[-1]["fingerprint"].startswith("hashing@1")


async def test_a_query_is_embedded_once() -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker, query_cache_entries=1) as served:
        for query in ("x", "x", "y", "x"):
            await served.search(query=query)
        sources = {
            source: served.metrics.registry.get_sample_value("headrace_search_query_cache_total", {"source": source})
            for source in ("cache", "model")
        }
        assert sources == {"cache": 1, "model": 3}
        assert worker.asked[0]["vector"] == worker.asked[1]["vector"] != worker.asked[2]["vector"]


# --- shards that are missing


async def test_a_shard_that_nobody_has_is_named_and_the_answer_partial() -> None:
    worker = FakeWorker(3, 0, 2)
    worker.shards[0] = said(hit("a", 0.9))
    async with gateway(worker) as served:
        answer = await served.search()
        assert (ids(answer), answer["partial"]) == (["a"], True)
        assert answer["missing_shards"] == {"1": "no index worker has it"}
        assert set(answer["freshness"]["shards"]) == {"0", "2"}
        SearchResponse.model_validate(answer, strict=True)


@pytest.mark.parametrize(("answers", "why"), [(500, "answered with status 500"), ("never", "no answer within 250 ms")])
async def test_a_worker_that_fails_or_hangs_is_left_out_and_named(answers: Any, why: str) -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.shards[0] = said(hit("a", 0.9))
    async with gateway(one, two) as served:
        two.answers = answers
        with within(5 * SHARD_TIMEOUT_MS / 1000 + 1):
            answer = await served.search()
        assert (ids(answer), answer["partial"]) == (["a"], True)
        assert answer["missing_shards"] == {"1": f"{two.url}: {why}"}


async def test_a_worker_that_was_too_slow_is_not_asked_again_and_another_one_is_without_a_look() -> None:
    one, two, other = FakeWorker(3, 0, 1, replica="a"), FakeWorker(3, 2, replica="a"), FakeWorker(3, 1, replica="b")
    other.shards[1] = said(as_of_ms=now_ms() - 5000)
    async with gateway(one, two, other) as served:
        one.answers = "hangs"
        with within(IN_TIME_S):
            answer = await served.search()
        assert answer["missing_shards"] == {"0": f"{one.url}: no answer within 250 ms"}
        assert [len(worker.asked) for worker in (one, two, other)] == [1, 1, 1]
        assert served.directory.workers[one.url].missed == 0


async def test_a_worker_that_hangs_costs_the_searches_nothing_once_that_is_known() -> None:
    """Also one of the settings, which is never forgotten; as soon as it answers a poll it is asked again."""
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    await one.start()
    await two.start()
    async with gateway(redis=False, index_urls=(one.url, two.url)) as served:
        two.answers = "hangs"
        for _ in range(2):
            await served.directory.refresh()
        with within(IN_TIME_S):
            for _ in range(5):
                assert (await served.search())["missing_shards"] == {"1": f"{two.url}: unreachable"}
        assert two.asked == []
        two.answers = "well"
        await served.directory.refresh()
        assert (await served.search())["partial"] is False
    await one.stop()
    await two.stop()


async def test_one_poll_that_was_missed_keeps_no_search_from_a_worker() -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker) as served:
        worker.describes = "busy"
        await served.directory.refresh()
        assert served.directory.workers[worker.url].missed == 1
        assert (await served.search())["partial"] is False


async def test_a_shard_that_has_moved_is_found_in_time_while_another_worker_hangs() -> None:
    one, two, hung = FakeWorker(3, 0, 1), FakeWorker(3), FakeWorker(3, 2)
    async with gateway(one, two, hung) as served:
        for polls in (0, 2):
            hung.answers = "hangs"
            for _ in range(polls):
                await served.directory.refresh()
            two.shards[1] = said(hit("a", 0.9))
            one.shards.pop(1, None)
            with within(IN_TIME_S):
                answer = await served.search()
            assert (ids(answer), list(answer["missing_shards"])) == (["a"], ["2"])
            one.shards[1] = two.shards.pop(1)
            hung.answers = "well"
            await served.directory.refresh()


async def test_a_shard_of_a_worker_that_is_silent_is_found_at_its_new_worker() -> None:
    one, two = FakeWorker(1, 0), FakeWorker(1)
    async with gateway(one, two) as served:
        one.answers = "hangs"
        for _ in range(2):
            await served.directory.refresh()
        two.shards[0] = said()
        with within(IN_TIME_S):
            assert (await served.search())["partial"] is False
        assert one.asked == []


async def test_a_dead_worker_is_left_out_and_named() -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    async with gateway(one, two) as served:
        await two.stop()
        answer = await served.search()
        assert list(answer["missing_shards"]) == ["1"]
        assert two.url in answer["missing_shards"]["1"]


@pytest.mark.parametrize("answers", [500, "never"])
async def test_a_replica_answers_for_one_that_fails(answers: Any) -> None:
    one, two = FakeWorker(1, 0, replica="0"), FakeWorker(1, 0, replica="1")
    one.shards[0] = said(hit("a", 0.9))
    two.shards[0] = said(hit("a", 0.9), as_of_ms=now_ms() - 5000)  # the staler one, so the other is asked first
    async with gateway(one, two) as served:
        one.answers = answers
        answer = await served.search()
        assert (ids(answer), answer["partial"]) == (["a"], False)
        assert (len(one.asked), len(two.asked)) == (1, 1)


async def test_of_two_replicas_the_fresher_ready_one_is_asked() -> None:
    workers = [FakeWorker(1, 0, replica=str(number)) for number in range(3)]
    for worker, as_of_ms in zip(workers, (now_ms() - 9000, now_ms() - 5000, now_ms()), strict=True):
        worker.shards[0] = said(as_of_ms=as_of_ms)
    workers[2].states[0] = "loading"
    async with gateway(*workers) as served:
        await served.search()
        assert [len(worker.asked) for worker in workers] == [0, 1, 0]


async def test_a_replica_whose_words_lag_behind_its_rows_is_asked_after_one_that_is_fresh_in_both() -> None:
    lagging, fresh = FakeWorker(1, 0, replica="a"), FakeWorker(1, 0, replica="b")
    now = now_ms()
    lagging.told[0] = {"as_of_ms": now, "words_as_of_ms": now - 13_000}
    fresh.told[0] = {"as_of_ms": now - 800, "words_as_of_ms": now - 850}
    async with gateway(lagging, fresh) as served:
        await served.search()
    assert (len(lagging.asked), len(fresh.asked)) == (0, 1)


async def test_a_replica_that_is_catching_up_is_asked_before_one_that_is_loading() -> None:
    loading, behind = FakeWorker(1, 0, replica="0"), FakeWorker(1, 0, replica="1")
    loading.states[0], behind.states[0] = "loading", "catching up"
    behind.shards[0] = said(as_of_ms=now_ms() - 9000)
    async with gateway(loading, behind) as served:
        await served.search()
        assert (len(loading.asked), len(behind.asked)) == (0, 1)


async def test_a_shard_that_has_moved_is_found_at_its_new_worker() -> None:
    one, two = FakeWorker(2, 0, 1), FakeWorker(2)
    async with gateway(one, two) as served:
        two.shards[1] = said(hit("a", 0.9))
        del one.shards[1]
        answer = await served.search()
        assert (ids(answer), answer["partial"]) == (["a"], False)
        assert [body["shards"] for body in one.asked] == [[0, 1]]
        assert [body["shards"] for body in two.asked] == [[1]]


async def test_without_any_worker_the_answer_is_503_and_says_what_to_start() -> None:
    async with gateway() as served:
        assert "no index worker is known; start one with `headrace index`" in await served.refused(503)


async def test_a_worker_that_comes_later_is_found_by_the_first_search() -> None:
    worker = FakeWorker(1, 0)
    async with gateway() as served:
        await worker.start()
        served.registry.known = [worker.url]
        assert (await served.search())["partial"] is False
    await worker.stop()


async def test_when_no_shard_answers_the_answer_is_503_with_every_reason() -> None:
    worker = FakeWorker(2, 0, 1)
    async with gateway(worker) as served:
        worker.answers = 500
        text = await served.refused(503)
        assert "no shard answers: shard 0: " in text
        assert "shard 1: " in text


async def test_while_redis_is_gone_the_last_known_map_serves() -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker) as served:
        served.registry.known = None
        await served.directory.refresh()
        assert (await served.search())["partial"] is False


async def test_workers_named_in_the_settings_need_no_redis() -> None:
    worker = FakeWorker(1, 0)
    await worker.start()
    async with gateway(redis=False, index_urls=(worker.url,)) as served:
        assert (await served.search())["partial"] is False
    await worker.stop()


async def test_a_worker_that_withdrew_and_is_silent_is_forgotten() -> None:
    one, two = FakeWorker(1, 0), FakeWorker(1, 0)
    async with gateway(one, two) as served:
        served.registry.known = [two.url]
        await served.directory.refresh()
        assert set(served.directory.workers) == {one.url, two.url}  # it still answers
        await one.stop()
        await served.directory.refresh()
        assert set(served.directory.workers) == {two.url}


@pytest.mark.parametrize("describes", [{}, [], "hello", {"replica": "0", "partitions": 1}, {"shards": 5}])
async def test_something_else_at_a_registered_url_does_not_stop_the_gateway(describes: Any) -> None:
    good, stranger = FakeWorker(1, 0), FakeWorker(1)
    stranger.describes = describes
    async with gateway(good, stranger) as served:
        assert (await served.search())["partial"] is False
        assert served.directory.workers[stranger.url].missed > 0


@pytest.mark.parametrize("redis", [True, False])
async def test_a_worker_of_another_collection_at_an_old_url_is_not_searched(redis: bool) -> None:
    """Ours ended, and the other one got its port before a poll was missed."""
    worker = FakeWorker(1, 0)
    worker.more, worker.shards[0] = {"collection": "documents"}, said(hit("ours", 0.9))
    await worker.start()
    async with gateway(redis=redis, index_urls=() if redis else (worker.url,)) as served:
        if redis:
            served.registry.known = [worker.url]
        assert ids(await served.search()) == ["ours"]
        if redis:
            served.registry.known = []
        worker.more, worker.shards[0] = {"collection": "other"}, said(hit("theirs", 0.9))
        worker.asked.clear()
        await served.directory.refresh()
        message(await served.search(503), 503)
        message(await served.get("/documents/theirs", 503), 503)
        assert (worker.asked, worker.document_ids) == ([], [])
    await worker.stop()


LEAST = {"partition": 1, "state": "ready", "documents": 0, "chunks": 0, "applied_offset": None, "as_of_ms": None}


@pytest.mark.parametrize(
    "changed",
    [
        {"shards": [{"partition": 1}]},
        *({"shards": [{name: told for name, told in LEAST.items() if name != left_out}]} for left_out in LEAST),
        {"shards": [LEAST | {"as_of_ms": "now"}]},
        {"shards": [LEAST | {"partition": "1"}]},
        {"partitions": "2"},
        {"partitions": None},
        {"partitions": 0},
        {"recent": [{}]},
        {"checks": []},
    ],
)
async def test_a_worker_that_says_too_little_costs_its_own_shards_alone(changed: dict[str, Any]) -> None:
    one, two = FakeWorker(2, 0), FakeWorker(2, 1)
    one.shards[0] = said(hit("a", 0.9))
    two.describes = {"replica": "0", "partitions": 2, "recent": [], "shards": [LEAST]}
    async with gateway(one, two) as served:
        assert (await served.search())["missing_shards"] == {}
        two.describes |= changed
        await served.directory.refresh()
        assert served.directory.workers[two.url].missed == 1
        assert ids(await served.search()) == ["a"]
        await served.get("/status")


# --- requests that are wrong


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"k": 0}, "k: "),
        ({"k": 1001}, "k: "),
        ({"mode": "psychic"}, "mode: "),
        ({"mode": "keyword", "vector": [1]}, "mode 'keyword' looks for words: give 'query' (text) as well"),
        ({"mode": "hybrid", "vector": [1]}, "mode 'hybrid' looks for words"),
        ({"mode": "hybrid", "query": "x", "vector": [0]}, "vector: must have at least one number other than 0"),
        ({"filter": {"lang": None}}, "filter.lang: null is not a value"),
        ({"filter": {"lang": {"like": "x"}}}, "filter.lang.like: unknown operator"),
        ({"vector": []}, "vector: must have at least one number other than 0"),
        ({"vector": [0, 0]}, "vector: must have at least one number other than 0"),
        ({"min_offsets": {"7": 1}}, "min_offsets: there is no partition 7; there are 1"),
        ({"min_offsets": {"0": 2**63}}, "min_offsets.0: "),
    ],
)
async def test_a_wrong_request_is_400_and_names_the_field(body: dict[str, Any], words: str) -> None:
    async with gateway(FakeWorker(1, 0)) as served:
        assert words in await served.refused(400, **body)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"query": 5}', b"\xff\xfe"])
async def test_malformed_json_is_400(body: bytes) -> None:
    async with gateway(FakeWorker(1, 0)) as served:
        assert message(await served.post(body, 400), 400)


async def test_numbers_that_json_cannot_carry_on_are_400() -> None:
    async with gateway(FakeWorker(1, 0)) as served:
        for body in (b'{"query": "x", "filter": {"n": 1e999}}', b'{"query": "x", "filter": {"n": {"gt": NaN}}}'):
            assert "filter.n: " in message(await served.post(body, 400), 400)


async def test_a_body_over_the_limit_is_413_and_names_the_setting() -> None:
    async with gateway(FakeWorker(1, 0), max_request_bytes=1024) as served:
        text = message(await served.post(orjson.dumps({"query": "x" * 2000}), 413), 413)
        assert "1024 bytes (HEADRACE_MAX_REQUEST_BYTES)" in text


async def test_a_filter_field_is_unknown_only_when_no_shard_knows_it() -> None:
    worker = FakeWorker(2, 0, 1)
    async with gateway(worker) as served:
        worker.shards[0] = said(unknown_fields=["color"], known_fields=["lang"])
        worker.shards[1] = said(hit("a", 0.5), known_fields=["color"], unknown_fields=[])
        assert ids(await served.search(filter={"color": "red"})) == ["a"]
        worker.shards[1] = said(unknown_fields=["color"], known_fields=["size"])
        text = await served.refused(400, filter={"color": "red"})
        assert text == "filter: no document has the field 'color'; there are: lang, size"


async def test_an_unknown_field_is_no_error_while_a_shard_is_missing_that_may_know_it() -> None:
    worker = FakeWorker(2, 0)
    worker.shards[0] = said(unknown_fields=["color"], known_fields=["lang"])
    async with gateway(worker) as served:
        assert (await served.search(filter={"color": "red"}))["partial"] is True


async def test_a_shard_that_refuses_the_vector_makes_it_400() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = {"error": "vector: has 2 dimensions, the index has 16", "status": 400}
    async with gateway(worker) as served:
        assert await served.refused(400, vector=[1, 2]) == "vector: has 2 dimensions, the index has 16"


# --- waiting


async def test_offsets_not_reached_in_time_are_504_with_how_far_the_shard_is() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = {"error": "did not reach min_offsets", "status": 504, "applied_offset": 3, "as_of_ms": 1}
    async with gateway(worker) as served:
        assert await served.refused(504, min_offsets={"0": 4}) == (
            "shard 0 did not reach min_offsets (applied offset: 3)"
        )


@pytest.mark.parametrize("demand", [{"min_offsets": {"1": 4}}, {"max_staleness_ms": 100}])
async def test_a_missing_shard_cannot_prove_its_freshness_and_is_504(demand: dict[str, Any]) -> None:
    worker = FakeWorker(2, 0)
    async with gateway(worker) as served:
        assert "shard 1 cannot say how far it is" in await served.refused(504, **demand)


async def test_a_worker_that_waits_for_a_shard_is_given_that_time_on_top() -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker) as served:
        worker.answers = "never"
        with within(4):
            text = await served.refused(503, min_offsets={"0": 4}, timeout_ms=100)
        assert f"no answer within {SHARD_TIMEOUT_MS + 100} ms" in text


async def test_a_second_attempt_has_what_the_first_one_left_of_the_time() -> None:
    one, two = FakeWorker(1, 0, replica="0"), FakeWorker(1, 0, replica="1")
    two.shards[0] = said(as_of_ms=now_ms() - 5000)
    async with gateway(one, two) as served:
        one.answers = "never"
        with within(0.5 + IN_TIME_S):
            await served.search(min_offsets={"0": 4}, timeout_ms=500)
            assert (one.asked[0]["timeout_ms"], two.asked[0]["timeout_ms"]) == (500, 1)
        two.answers = "never"
        with within(0.5 + IN_TIME_S):
            await served.refused(503, min_offsets={"0": 4}, timeout_ms=500)


# --- freshness and highlights


async def test_the_answer_is_as_fresh_as_its_oldest_shard() -> None:
    worker = FakeWorker(2, 0, 1)
    worker.shards = {0: said(as_of_ms=1_700_000_000_000, offset=41), 1: said(as_of_ms=1_700_000_009_000)}
    async with gateway(worker) as served:
        told = (await served.search())["freshness"]
        assert told["as_of"] == told["shards"]["0"]["as_of"] == "2023-11-14T22:13:20.000Z"
        assert told["shards"]["1"]["as_of"] == "2023-11-14T22:13:29.000Z"
        assert told["shards"]["0"]["applied_offset"] == 41
        assert told["staleness_ms"] - told["shards"]["1"]["staleness_ms"] == 9000


async def test_a_shard_that_has_applied_nothing_makes_the_freshness_unknown() -> None:
    worker = FakeWorker(2, 0, 1)
    worker.shards[1] = said(offset=None) | {"as_of_ms": None}
    async with gateway(worker) as served:
        answer = await served.search()
        assert (answer["freshness"]["as_of"], answer["freshness"]["staleness_ms"]) == (None, None)
        assert answer["freshness"]["shards"]["1"] == {"applied_offset": None, "as_of": None, "staleness_ms": None}
        SearchResponse.model_validate(answer, strict=True)


async def test_a_clock_that_is_ahead_makes_no_negative_staleness() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(as_of_ms=now_ms() + 60_000)
    async with gateway(worker) as served:
        assert (await served.search())["freshness"]["staleness_ms"] == 0


@pytest.mark.parametrize("event_time_ms", [-1, 2**53, 2**62])
async def test_a_document_with_an_absurd_time_does_not_fail_the_search(event_time_ms: int) -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(hit("a", 0.5, event_time_ms=event_time_ms))
    async with gateway(worker) as served:
        assert ids(await served.search()) == ["a"]


async def test_highlights_are_spans_of_code_points_of_the_words_as_the_keyword_index_reads_them() -> None:
    worker = FakeWorker(1, 0)
    text = "🦫 Ünïcode shards: SHARD, unicode; the shar"
    worker.shards[0] = said(hit("a", 0.5, text=text))
    async with gateway(worker) as served:
        answer = await served.search(query="the shard ünïcode?")
        marked = [text[span["start"] : span["end"]] for span in answer["hits"][0]["highlights"]]
        assert marked == ["Ünïcode", "shards", "SHARD", "unicode"]


async def test_highlights_follow_the_stemmer_of_the_keyword_index() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(hit("a", 0.5, text="shard shards"))
    async with gateway(worker, keyword_stemmer="none") as served:
        answer = await served.search(query="shard")
        assert answer["hits"][0]["highlights"] == [{"start": 0, "end": 5}]


async def test_a_search_by_vector_marks_nothing() -> None:
    worker = FakeWorker(1, 0)
    worker.shards[0] = said(hit("a", 0.5))
    async with gateway(worker) as served:
        assert (await served.search(vector=[1] * DIM))["hits"][0]["highlights"] == []


@pytest.mark.parametrize("nonsense", ["x", None, [], {}, {"error": "no status"}])
async def test_a_worker_that_answers_nonsense_is_a_missing_shard(nonsense: Any) -> None:
    worker = FakeWorker(1, 0)
    async with gateway(worker) as served:
        worker.shards[0] = nonsense
        assert "answered what no index worker answers" in await served.refused(503)


async def test_a_worker_that_answers_nonsense_to_a_document_is_asked_in_vain() -> None:
    worker = FakeWorker(1, 0)
    worker.documents["a"] = {}
    async with gateway(worker) as served:
        assert "cannot tell" in message(await served.get("/documents/a", 503), 503)
