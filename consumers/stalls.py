"""Faust sometimes reads no more after a rebalance or an outage, without an error: noticed here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import faust

from app.kafka.watch import KafkaWatch
from app.watchdog import TROUBLE_SHARE, Watchdog
from schemas.errors import Stalled

log = logging.getLogger("headrace.worker")

INTERVAL_S = 5.0


class StallWatch:
    """Whether records of a partition wait in Kafka and are not read, for all that the worker has room.

    limit_s: after so long the worker ends; 0: never. has_room: whether the worker takes in
    what comes; while it does not, nothing is fetched.
    """

    def __init__(
        self,
        app: faust.App,
        kafka: KafkaWatch,
        limit_s: float,
        has_room: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._app = app
        self._kafka = kafka
        self._limit_s = limit_s
        self._has_room = has_room
        self._clock = clock
        self._watchdog = watchdog or Watchdog(0)
        self._still: dict[Any, tuple[int, float]] = {}  # by partition: where reading stands, and since when
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """For /readyz: what cannot be read, or is not read."""
        consumer = self._app._consumer  # `consumer` would make one, in the wrong loop
        return (None if consumer is None else consumer.unreadable.trouble) or self._trouble

    async def run(self) -> None:
        """Look every few seconds. Raises Stalled."""
        while self._limit_s:
            await asyncio.sleep(min(INTERVAL_S, self._limit_s / 4))
            with self._watchdog.watch("asking where reading stands", excuse=lambda: self._kafka.trouble):
                await self.look()

    async def look(self) -> None:
        """Raises Stalled if nothing has been read for too long though there is something."""
        app = self._app
        if self._kafka.trouble is not None or not app.started or app.rebalancing or not self._has_room():
            self._still, self._trouble = {}, None
            return
        consumer = app.consumer
        partitions = consumer.assignment()
        leaderless = consumer.leaderless(partitions)  # nobody would answer
        if leaderless:
            self._trouble = _told(leaderless)
        assigned = [tp for tp in partitions if tp not in consumer.unreadable.partitions | leaderless]
        try:
            ends = await consumer.highwaters(*assigned) if assigned else {}
            places = {tp: await consumer.position(tp) for tp in assigned}
        except Exception as error:  # noqa: BLE001 - whatever the broker's absence looks like: KafkaWatch tells of it
            log.debug("not asked this time: %s", error)
            return
        now = self._clock()
        behind = {tp: place for tp, place in places.items() if place is not None and place < ends[tp]}
        self._still = {
            tp: self._still[tp] if self._still.get(tp, (None, 0.0))[0] == place else (place, now)
            for tp, place in behind.items()
        }
        self._trouble = _told(leaderless) if leaderless else None
        if not self._still:
            return
        tp, (place, since) = min(self._still.items(), key=lambda item: item[1][1])
        if now - since < self._limit_s * TROUBLE_SHARE:
            return
        self._trouble = (
            f"partition {tp.partition} of {tp.topic} has records up to {ends[tp]}, "
            f"reading stands at {place} for {now - since:.0f} s"
        )
        if now - since >= self._limit_s:
            raise Stalled(f"{self._trouble}: ending, to be started again")


def _told(leaderless: Iterable[Any]) -> str:
    where = ", ".join(f"partition {tp.partition} of {tp.topic}" for tp in sorted(leaderless))
    return f"no broker leads {where}: it is not read until one does"
