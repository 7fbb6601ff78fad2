"""Whether Kafka answers: asked every few seconds, told in /readyz and once in the log."""

from __future__ import annotations

import asyncio
import logging

from app.kafka.producer import RecordProducer
from schemas.errors import BrokerUnavailable

log = logging.getLogger("headrace.kafka")

INTERVAL_S = 2.0
TIMEOUT_S = 3.0


class KafkaWatch:
    """trouble: None while Kafka answers, else a sentence."""

    def __init__(self, producer: RecordProducer, brokers: str) -> None:
        self._producer = producer
        self._brokers = brokers
        self.trouble: str | None = None

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self._ask()

    async def _ask(self) -> None:
        try:
            await asyncio.to_thread(self._producer.connect, TIMEOUT_S)
        except BrokerUnavailable as error:
            if self.trouble is None:
                log.warning("Kafka at %s does not answer (%s): waiting for it", self._brokers, error)
            self.trouble = f"Kafka at {self._brokers} does not answer: {error}"
            return
        if self.trouble is not None:
            log.info("Kafka at %s answers again", self._brokers)
            self.trouble = None
