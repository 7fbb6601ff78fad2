"""A consumer group that does not say for very long which partitions are ours: joining it, or a rebalance, hangs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import faust

from app.kafka.watch import KafkaWatch
from app.watchdog import Watchdog

_LEAST_S = 180.0  # a group gives its members 60 s, and may begin again


def joining(
    watchdog: Watchdog, app: faust.App, kafka: KafkaWatch, placed: Callable[[], bool]
) -> AbstractContextManager[None]:
    """Inside, the watchdog looks at whether the group has placed this worker.

    placed: whether it ever has. Opening and closing shards belongs to it. A Kafka that is away is no fault of ours. A
    group that has not answered a heartbeat for a session has forgotten the worker: aiokafka may wait for ever then.
    """

    def in_the_group() -> bool:
        return placed() and not app.rebalancing and app.consumer.lease.holds

    return watchdog.watch(
        "joining the consumer group",
        least_s=_LEAST_S,
        excuse=lambda: kafka.trouble or in_the_group(),
    )
