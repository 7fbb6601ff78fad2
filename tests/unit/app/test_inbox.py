"""Events that wait: their order, their bounds, and taking without lingering."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import inbox as module
from app.event import Event
from app.inbox import Inbox


def event(partition: int, offset: int, size: int = 1) -> Event:
    return Event(partition, offset, b"k", b"x" * size, (), 0, 0)


async def filled(inbox: Inbox, *events: Event) -> Inbox:
    for item in events:
        await inbox.put(item)
    return inbox


async def is_stuck(task: asyncio.Task[object]) -> bool:
    """Whether the task waits for something that nobody is about to do."""
    for _ in range(10):
        await asyncio.sleep(0)
    return not task.done()


def places(events: list[Event]) -> list[tuple[int, int]]:
    return [(item.partition, item.offset) for item in events]


async def test_one_event_is_a_batch_at_once() -> None:
    inbox = Inbox(10)
    taking = asyncio.create_task(inbox.take(100, 100))
    assert await is_stuck(taking)
    await inbox.put(event(0, 5))
    assert places(await asyncio.wait_for(taking, 1)) == [(0, 5)]
    assert len(inbox) == 0


async def test_what_piled_up_is_taken_partition_by_partition_in_turn_and_in_order() -> None:
    inbox = await filled(Inbox(10), event(0, 0), event(0, 1), event(0, 2), event(1, 7), event(1, 8))
    assert places(await inbox.take(100, 100)) == [(0, 0), (1, 7), (0, 1), (1, 8), (0, 2)]


async def test_a_batch_is_bounded_in_bytes_but_takes_at_least_one_event() -> None:
    inbox = await filled(Inbox(10), event(0, 0, 1000), event(0, 1, 10), event(0, 2, 10), event(0, 3, 10))
    assert places(await inbox.take(100, 15)) == [(0, 0)]
    assert places(await inbox.take(100, 15)) == [(0, 1), (0, 2)]
    assert places(await inbox.take(100, 15)) == [(0, 3)]


async def test_a_full_inbox_holds_up_who_fills_it_until_there_is_room() -> None:
    inbox = await filled(Inbox(2), event(0, 0), event(0, 1))
    putting = asyncio.create_task(inbox.put(event(0, 2)))
    assert await is_stuck(putting)
    assert places(await inbox.take(1, 100)) == [(0, 0)]
    await asyncio.wait_for(putting, 1)
    assert inbox.waiting(0) == 2


async def test_large_events_fill_the_inbox_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 100)
    inbox = await filled(Inbox(1000), event(0, 0, 60), event(0, 1, 60))
    putting = asyncio.create_task(inbox.put(event(0, 2)))
    assert await is_stuck(putting)
    await inbox.take(1, 1)
    await asyncio.wait_for(putting, 1)


async def test_dropped_partitions_are_forgotten_and_make_room() -> None:
    inbox = await filled(Inbox(3), event(0, 0), event(1, 0), event(1, 1))
    putting = asyncio.create_task(inbox.put(event(0, 1)))
    assert await is_stuck(putting)
    assert inbox.drop({1, 5}) == 2
    await asyncio.wait_for(putting, 1)
    assert places(await inbox.take(100, 100)) == [(0, 0), (0, 1)]
    assert inbox.waiting(1) == 0


async def test_an_event_that_waits_for_room_while_its_partition_is_dropped_is_forgotten_with_it() -> None:
    inbox = await filled(Inbox(1), event(0, 0))
    waiting = [asyncio.create_task(inbox.put(event(partition, 1))) for partition in (0, 1)]
    await asyncio.sleep(0)
    inbox.drop({0})
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
        assert [(item.partition, item.offset) for item in await inbox.take(9, 99)] == [(1, 1)]


async def test_a_closed_inbox_takes_nothing_in_and_gives_nothing_out() -> None:
    inbox = await filled(Inbox(10), event(0, 0))
    inbox.close()
    tasks = [asyncio.create_task(inbox.put(event(0, 1))), asyncio.create_task(inbox.take(1, 1))]
    assert [await is_stuck(task) for task in tasks] == [True, True]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=30),
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 12)), min_size=1, max_size=30),
)
def test_every_event_comes_out_once_and_in_the_order_of_its_partition(
    sizes: list[tuple[int, int]], takes: list[tuple[int, int]]
) -> None:
    async def run() -> list[Event]:
        events = [event(partition, offset, size) for offset, (partition, size) in enumerate(sizes)]
        inbox, taken = await filled(Inbox(1000), *events), []
        for number in range(len(events)):
            if not len(inbox):
                break
            max_events, max_bytes = takes[number % len(takes)]
            batch = await inbox.take(max_events, max_bytes)
            assert batch
            assert len(batch) < max_events + 3
            taken += batch
        assert len(taken) == len(events)
        return taken

    taken = asyncio.run(run())
    for partition in range(3):
        offsets = [item.offset for item in taken if item.partition == partition]
        assert offsets == sorted(offsets)
