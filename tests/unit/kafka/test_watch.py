"""Whether Kafka answers, and whether the topics are still the ones that the worker knows."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from app.kafka.topics import CollectionTopics
from app.kafka.watch import KafkaWatch
from app.settings import Settings
from schemas.errors import BrokerUnavailable, EpochChanged, TopicsWrong

KNOWN = CollectionTopics(4, "epoch")


class Broker:
    """away: nobody answers. topics: what is there, or why that is wrong."""

    def __init__(self) -> None:
        self.away = False
        self.topics: CollectionTopics | Exception = KNOWN
        self.asked = 0

    def connect(self, _: float) -> int:
        self.asked += 1
        if self.away:
            raise BrokerUnavailable("no route")
        return 1

    def found(self, *_: Any) -> CollectionTopics:
        if isinstance(self.topics, Exception):
            raise self.topics
        return self.topics


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr("app.kafka.watch.collection_topics", broker.found)
    monkeypatch.setattr("app.kafka.watch.INTERVAL_S", 0.001)
    return broker


def watch_of(broker: Any) -> KafkaWatch:
    return KafkaWatch(broker, Settings(_env_file=None, brokers="127.0.0.1:1"), KNOWN)


async def until_trouble(watch: KafkaWatch, trouble: str | None) -> None:
    async with asyncio.timeout(5):
        while watch.trouble != trouble:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


async def test_an_outage_and_topics_that_are_gone_are_told_once_and_so_is_their_end(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    watch = watch_of(broker)
    with caplog.at_level(logging.INFO, "headrace.kafka"):
        running = asyncio.create_task(watch.run())
        await until_trouble(watch, None)
        broker.away = True
        await until_trouble(watch, "Kafka at 127.0.0.1:1 does not answer: no route")
        broker.away = False
        await until_trouble(watch, None)
        broker.topics = TopicsWrong("topic d.vectors does not exist. Run: this")
        await until_trouble(watch, "topic d.vectors does not exist. Run: this")
        broker.topics = KNOWN
        await until_trouble(watch, None)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2


async def test_topics_that_were_made_again_end_the_worker(broker: Broker) -> None:
    broker.topics = CollectionTopics(4, "another epoch")
    with pytest.raises(EpochChanged, match="deleted and made again"):
        await asyncio.wait_for(watch_of(broker).run(), 5)
