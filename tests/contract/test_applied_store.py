"""What the embed worker remembers of each document: one suite over memory and a real Redis."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.embed.applied import (
    AppliedState,
    AppliedStore,
    MemoryApplied,
    RedisApplied,
    Span,
    Verdict,
    judge,
    state_after,
)
from app.embed.events import Work
from app.local.redis import LocalRedis
from app.order import DocumentOrder
from app.redis_link import RedisLink
from app.settings import Settings
from tests.unit.embed.parts import GappyApplied, event, work_of

HASH, MODEL = bytes(16), b"model..."
Make = Callable[[], AppliedStore]


@pytest.fixture(scope="module")
def link(request: pytest.FixtureRequest) -> Iterator[RedisLink]:
    server: LocalRedis = request.getfixturevalue("shared_redis")
    opened = RedisLink(Settings(_env_file=None, redis_url=server.url, redis_timeout_ms=5000))
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes empty stores."""
    if request.param == "memory":
        return MemoryApplied
    link: RedisLink = request.getfixturevalue("link")
    return lambda: RedisApplied(link, "c", uuid.uuid4().hex, 1)


@pytest.fixture(scope="module", params=["model", pytest.param("redis", marks=pytest.mark.redis)])
def make_gappy(request: pytest.FixtureRequest) -> Make:
    """Makes empty stores that know how far what they hold is complete."""
    if request.param == "model":
        return GappyApplied
    link: RedisLink = request.getfixturevalue("link")
    return lambda: RedisApplied(link, "c", uuid.uuid4().hex, 1)


@pytest.fixture
def store(make: Make) -> AppliedStore:
    return make()


def state(offset: int, version: int | None = None, *, deleted: bool = False) -> AppliedState:
    return AppliedState(DocumentOrder(version, offset), deleted, HASH, MODEL)


def works(*documents: tuple[int, str]) -> list[Work]:
    return [work_of(event(0, document, "x", partition=partition)) for partition, document in documents]


def test_nothing_is_known_of_a_document_never_seen(store: AppliedStore) -> None:
    assert store.get(works((0, "a"))) == [None]


def test_what_was_put_is_got_in_the_order_asked_for(store: AppliedStore) -> None:
    a, b, c = works((0, "a"), (0, "b"), (0, "ключ\0"))
    store.put([a, c], [state(1), state(2**62, 2**63 - 1, deleted=True)], {})
    assert store.get([c, b, a, a]) == [state(2**62, 2**63 - 1, deleted=True), None, state(1), state(1)]


def test_one_id_in_two_partitions_is_two_documents(store: AppliedStore) -> None:
    one, other = works((0, "a"), (1, "a"))
    store.put([one], [state(1)], {})
    assert store.get([other, one]) == [None, state(1)]


@pytest.mark.parametrize(
    ("first", "second", "kept"), [(5, 6, 6), (6, 5, 6), (9, 10, 10), (2**53, 2**53 + 1, 2**53 + 1)]
)
def test_the_later_offset_stays_whatever_the_order_of_writing(
    store: AppliedStore, first: int, second: int, kept: int
) -> None:
    """A worker that was paused may write after the one that took over."""
    (work,) = works((0, "a"))
    store.put([work], [state(first)], {})
    store.put([work], [state(second)], {})
    assert store.get([work]) == [state(kept)]


def test_the_same_offset_is_written_again(store: AppliedStore) -> None:
    """After the model was changed a redelivered event leaves another fingerprint."""
    (work,) = works((0, "a"))
    renewed = AppliedState(DocumentOrder(None, 4), False, HASH, b"another.")
    store.put([work], [state(4)], {})
    store.put([work], [renewed], {})
    assert store.get([work]) == [renewed]


def test_no_documents_are_no_work(store: AppliedStore) -> None:
    store.put([], [], {})
    assert store.get([]) == []


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.integers(0, 2**63 - 1), st.none() | st.integers(0, 2**63 - 1), st.booleans()
        )
    )
)
def test_it_keeps_per_document_the_state_of_the_latest_offset(
    make: Make, puts: list[tuple[str, int, int | None, bool]]
) -> None:
    store = make()
    expected: dict[str, AppliedState] = {}
    for document, offset, version, deleted in puts:
        new = state(offset, version, deleted=deleted)
        store.put(works((0, document)), [new], {})
        if document not in expected or expected[document].order.source_offset <= offset:
            expected[document] = new
    assert store.get(works((0, "a"), (0, "b"))) == [expected.get("a"), expected.get("b")]


# --- how far what is remembered is complete


def test_batches_that_follow_each_other_are_complete_from_the_first_on(make_gappy: Make) -> None:
    store = make_gappy()
    assert store.complete_since({0: Span(10, 12)}) == {}
    store.put([], [], {0: Span(10, 12)})
    store.put([], [], {0: Span(12, 20), 1: Span(0, 3)})
    assert store.complete_since({0: Span(20, 21), 1: Span(3, 4), 2: Span(0, 1)}) == {0: 10, 1: 0}


def test_after_a_gap_what_was_before_it_is_not_complete_any_more(make_gappy: Make) -> None:
    """Redis was away for the batch between."""
    store = make_gappy()
    store.put([], [], {0: Span(0, 5)})
    assert store.complete_since({0: Span(6, 7)}) == {}
    store.put([], [], {0: Span(6, 8)})
    assert store.complete_since({0: Span(8, 9)}) == {0: 6}


def test_a_batch_that_comes_again_takes_nothing_away(make_gappy: Make) -> None:
    store = make_gappy()
    store.put([], [], {0: Span(0, 9)})
    store.put([], [], {0: Span(3, 5)})
    assert store.complete_since({0: Span(9, 10)}) == {0: 0}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12), st.integers(1, 5)), max_size=8),
    st.sampled_from([0, 2**53, 2**62]),
)
@pytest.mark.redis
def test_redis_says_the_same_of_every_span_as_its_model(
    link: RedisLink, spans: list[tuple[int, int, int]], base: int
) -> None:
    redis_store, model = RedisApplied(link, "c", uuid.uuid4().hex, 1), GappyApplied()
    for partition, first, length in spans:
        span = {partition: Span(base + first, base + first + length)}
        assert redis_store.complete_since(span) == model.complete_since(span)
        redis_store.put([], [], span)
        model.put([], [], span)
    for first in range(18):
        asked = {partition: Span(base + first, base + first + 1) for partition in (0, 1)}
        assert redis_store.complete_since(asked) == model.complete_since(asked)


@pytest.mark.redis
def test_another_life_of_the_topic_knows_nothing_of_this_one(link: RedisLink) -> None:
    (work,) = works((0, "a"))
    RedisApplied(link, "c", "epoch 1", 1).put([work], [state(9)], {})
    assert RedisApplied(link, "c", "epoch 1", 1).get([work]) == [state(9)]
    assert RedisApplied(link, "c", "epoch 2", 1).get([work]) == [None]
    assert RedisApplied(link, "other", "epoch 1", 1).get([work]) == [None]


@pytest.mark.redis
def test_what_redis_holds_ends_after_its_time_to_live(link: RedisLink, shared_redis: LocalRedis) -> None:
    name = uuid.uuid4().hex
    RedisApplied(link, name, "e", 2).put(works((0, "a")), [state(1)], {})
    with redis.Redis.from_url(shared_redis.url) as client:
        (key,) = client.keys(f"headrace:{name}:*")
        assert 7_000_000 < client.pttl(key) <= 7_200_000


@pytest.mark.redis
@pytest.mark.parametrize("garbage", [b"", b"x", b"\xff" * 49, b"not hexadecimal!" + bytes(33)])
def test_what_is_not_ours_in_redis_is_as_if_nothing_were_known(
    link: RedisLink, shared_redis: LocalRedis, garbage: bytes
) -> None:
    name = uuid.uuid4().hex
    store, (work,) = RedisApplied(link, name, "e", 1), works((0, "a"))
    store.put([work], [state(1)], {})
    with redis.Redis.from_url(shared_redis.url) as client:
        client.set(client.keys(f"headrace:{name}:*")[0], garbage)
    assert store.get([work]) == [None]


def test_without_redis_nothing_is_known_and_nothing_fails() -> None:
    store, (work,) = RedisApplied(RedisLink(Settings(_env_file=None, redis_url="")), "c", "e", 1), works((0, "a"))
    store.put([work], [state(1)], {})
    assert store.get([work]) == [None]


@given(
    st.builds(
        AppliedState,
        st.builds(DocumentOrder, st.none() | st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
        st.booleans(),
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=8, max_size=8),
    )
)
def test_a_state_encodes_to_itself(given_state: AppliedState) -> None:
    assert AppliedState.decode(given_state.encode()) == given_state


def test_a_change_of_the_model_embeds_what_is_redelivered_or_unchanged() -> None:
    work, later = work_of(event(4, "a", "x")), work_of(event(5, "a", "x"))
    held = state_after(work, None, b"old....")
    verdicts = [judge(item, held, model, complete=True) for model in (b"old....", b"new....") for item in (work, later)]
    assert verdicts == [Verdict.REDELIVERED, Verdict.UNCHANGED, Verdict.EMBED, Verdict.EMBED]


def test_an_older_state_says_what_is_stale_but_not_that_nothing_has_changed() -> None:
    held = state_after(work_of(event(4, "a", "x", version=3)), None, MODEL)
    same, older = work_of(event(9, "a", "x", version=3)), work_of(event(9, "a", "y", version=2))
    assert judge(same, held, MODEL, complete=False) is Verdict.EMBED
    assert judge(older, held, MODEL, complete=False) is Verdict.STALE
    assert judge(work_of(event(3, "a", "z")), held, MODEL, complete=False) is Verdict.REDELIVERED


@pytest.mark.parametrize("digits", [b"+00000000000000f", b"0_0000000000000f", b" 000000000000000", b"-000000000000001"])
def test_an_offset_that_only_int_would_take_is_not_ours(digits: bytes) -> None:
    with pytest.raises(ValueError, match="no offset"):
        AppliedState.decode(digits + AppliedState(DocumentOrder(None, 1), False, bytes(16), bytes(8)).encode()[16:])


def test_a_version_below_none_is_not_ours() -> None:
    with pytest.raises(ValueError, match="version -2"):
        AppliedState.decode(AppliedState(DocumentOrder(-2, 1), False, bytes(16), bytes(8)).encode())
