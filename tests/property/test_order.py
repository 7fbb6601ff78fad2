"""The order of changes, coalescing, and what each record claims, against applying every event alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from app.embed.coalesce import coalesce
from app.embed.records import by_partition, reaches
from app.event import Event
from app.order import DocumentOrder
from schemas.document_change import decode_change
from tests.unit.embed.parts import NOW_MS, IndexModel, event, one_by_one, place_among, raw_event, replayed

ORDERS = st.builds(DocumentOrder, st.none() | st.integers(0, 5), st.integers(0, 20))


@st.composite
def histories(draw: st.DrawFn, poison: bool = False) -> list[Event]:
    """Events of two partitions and few documents, interleaved; offsets have gaps, versions come and go, and some events
    repeat a dead letter that would fit into a gap, each another one: two events of one place would say the same."""
    events: list[Event] = []
    repeated: set[tuple[int, int]] = set()
    offsets = {0: draw(st.integers(0, 3)), 1: draw(st.integers(0, 3))}
    for number in range(draw(st.integers(1, 14))):
        partition = draw(st.integers(0, 1))
        document, version = draw(st.sampled_from("abc")), draw(st.none() | st.integers(0, 4))
        kind = draw(st.sampled_from(["upsert", "upsert", "delete", "null", *(["poison"] if poison else [])]))
        offset = offsets[partition]
        gaps = set(range(offset)) - {item.offset for item in events if item.partition == partition}
        gaps -= {place for of, place in repeated if of == partition}
        offsets[partition] += draw(st.integers(1, 3))
        if kind == "poison":
            item = raw_event(offset, document.encode(), b"{", partition=partition)
        elif kind == "null":
            item = raw_event(offset, document.encode(), None, partition=partition)
        else:
            text = None if kind == "delete" else f"text {draw(st.integers(0, 2))}"
            item = event(offset, document, text, partition=partition, version=version, title=f"at {number % 2}")
        if gaps and kind != "poison" and draw(st.integers(0, 3)) == 0:
            place = draw(st.sampled_from(sorted(gaps)))
            repeated.add((partition, place))
            item = replayed(item, place)
        events.append(item._replace(timestamp_ms=NOW_MS + draw(st.integers(-50, 50))))
    return events


@given(ORDERS, ORDERS)
def test_of_two_changes_at_most_one_supersedes_the_other(one: DocumentOrder, other: DocumentOrder) -> None:
    assert not (one.supersedes(other) and other.supersedes(one))
    assert not one.supersedes(one)
    if one.source_offset != other.source_offset:
        assert one.supersedes(other) or other.supersedes(one)


@given(ORDERS, ORDERS, ORDERS)
def test_where_all_are_comparable_the_order_is_transitive(
    one: DocumentOrder, two: DocumentOrder, three: DocumentOrder
) -> None:
    if one.comparable(two) and two.comparable(three) and three.supersedes(two) and two.supersedes(one):
        assert three.supersedes(one)


@given(st.lists(ORDERS, min_size=1))
def test_a_version_once_held_is_never_forgotten_nor_undercut(orders: list[DocumentOrder]) -> None:
    held = orders[0]
    for order in orders[1:]:
        if order.supersedes(held):
            before, held = held, order.after(held)
            assert held.source_offset == order.source_offset
            if before.version is not None:
                assert held.version is not None
                assert held.version >= before.version
            assert not order.supersedes(held)


@given(histories())
def test_coalescing_a_batch_leaves_what_applying_each_event_leaves(events: list[Event]) -> None:
    works, dead = coalesce(events, 1000)
    index = IndexModel()
    for work in works:
        index.apply_change(work.event.partition, work.place, work.change)
    assert dead == []
    assert index.living() == one_by_one(events)


@given(histories(), st.data())
def test_coalescing_any_batches_of_a_history_leaves_what_applying_each_event_leaves(
    events: list[Event], data: st.DataObject
) -> None:
    index, rest = IndexModel(), events
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        for work in coalesce(rest[:size], 1000)[0]:
            index.apply_change(work.event.partition, work.place, work.change)
        rest = rest[size:]
    assert index.living() == one_by_one(events)


@given(histories(poison=True))
def test_every_event_is_kept_superseded_or_dead(events: list[Event]) -> None:
    works, dead = coalesce(events, 1000)
    kept = {(work.event.partition, work.event.offset) for work in works}
    assert {item.event.value for item in dead} <= {b"{"}
    assert len(kept) == len(works)
    assert len(dead) == sum(item.value == b"{" for item in events)
    for partition, own in by_partition(works_events := [work.event for work in works]).items():
        firsts = [work.first_offset for work in works if work.event.partition == partition]
        assert firsts == sorted(set(firsts))
        assert len(own) == len(firsts)
    assert set(works_events) <= set(events)


@given(histories(poison=True), st.data())
def test_what_a_record_says_is_reflected_is_reflected(events: list[Event], data: st.DataObject) -> None:
    """After the records up to the i-th, every event up to its `through` is superseded by what is held, or held."""
    works, _ = coalesce(events, 1000)
    now_ms = NOW_MS + data.draw(st.integers(-20, 20))
    for partition, own in by_partition(events).items():
        mine = [work for work in works if work.event.partition == partition]
        limits = reaches(mine, own, now_ms)
        assert limits[-1].through == own[-1].offset
        assert [limit.through for limit in limits] == sorted({limit.through for limit in limits})
        index = IndexModel()
        for work, limit in zip(mine, limits, strict=False):
            index.apply_change(partition, work.place, work.change)
            covered = [item for item in own if item.offset <= limit.through]
            assert limit.as_of_ms == min(max(item.timestamp_ms for item in covered), now_ms)
            for item in (item for item in covered if item.value != b"{"):
                change = decode_change(item.key, item.value)
                held = index.orders[partition, change.id]
                assert not DocumentOrder(change.version, place_among(item, change)).supersedes(held)
            alone = one_by_one(item for item in covered if item.value != b"{")
            newer = {work.document for work in mine if work.event.offset > limit.through}
            assert {k: v for k, v in index.living().items() if k not in newer} == {
                k: v for k, v in alone.items() if k not in newer
            }


@settings(max_examples=20)
@given(histories())
def test_events_without_any_work_still_reach_their_end(events: list[Event]) -> None:
    for own in by_partition(events).values():
        (limit,) = reaches([], own, NOW_MS + 1000)
        assert limit.through == own[-1].offset
        assert limit == replace(limit, as_of_ms=max(item.timestamp_ms for item in own))
