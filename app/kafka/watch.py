"""Whether Kafka answers and its topics are the ones we know: asked every few seconds, told in /readyz and the log."""

from __future__ import annotations

import asyncio
import logging

from app.kafka.producer import RecordProducer
from app.kafka.topics import CollectionTopics, TopicAdmin, collection_topics
from app.settings import Settings
from app.watchdog import Watchdog
from schemas.errors import BrokerUnavailable, EpochChanged, TopicsWrong

log = logging.getLogger("headrace.kafka")

INTERVAL_S = 2.0
TIMEOUT_S = 3.0
TOPICS_EVERY = 5  # times that Kafka is asked
_LEAST_S = 60.0  # what both questions together may take where Kafka is away or slow


class KafkaWatch:
    """trouble: None while Kafka answers and has the topics, else a sentence."""

    def __init__(
        self,
        producer: RecordProducer,
        settings: Settings,
        topics: CollectionTopics,
        watchdog: Watchdog | None = None,
    ) -> None:
        """topics: as they were at the start."""
        self._producer = producer
        self._settings = settings
        self._topics = topics
        self._watchdog = watchdog or Watchdog(0)
        self._admin = TopicAdmin(settings)
        self.trouble: str | None = None

    async def run(self) -> None:
        """Ask for ever. Raises EpochChanged once the topics are others than at the start, or PartitionsChanged."""
        asked = 0
        while True:
            await asyncio.sleep(INTERVAL_S)
            with self._watchdog.watch("asking Kafka whether it answers", least_s=_LEAST_S):
                if await self._answers() and (self.trouble is not None or asked % TOPICS_EVERY == 0):
                    await self._check_topics()
            asked += 1

    async def _answers(self) -> bool:
        try:
            await asyncio.to_thread(self._producer.connect, TIMEOUT_S)
        except BrokerUnavailable as error:
            self._tell(f"Kafka at {self._settings.brokers} does not answer: {error}")
            return False
        return True

    async def _check_topics(self) -> None:
        try:
            found = await asyncio.to_thread(collection_topics, self._settings, self._admin)
        except BrokerUnavailable as error:
            self._tell(f"Kafka at {self._settings.brokers} does not answer: {error}")
        except TopicsWrong as error:
            self._tell(str(error))
        else:
            if not found.began(self._topics.mark):
                raise EpochChanged(
                    f"the topics of {self._settings.collection} were deleted and made again: "
                    "ending, the next start works with the new ones"
                )
            self._tell(None)

    def _tell(self, trouble: str | None) -> None:
        if trouble is None and self.trouble is not None:
            log.info("Kafka at %s answers again", self._settings.brokers)
        elif trouble is not None and self.trouble is None:
            log.warning("%s: waiting", trouble)
        self.trouble = trouble
