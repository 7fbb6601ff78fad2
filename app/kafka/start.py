"""What every role that uses Kafka checks at its start: is the broker there, are the topics as they must be."""

from __future__ import annotations

from app.kafka.producer import RecordProducer
from app.kafka.topics import CollectionTopics, collection_topics
from app.settings import Settings
from schemas.errors import BrokerUnavailable, ServiceMissing

CONNECT_S = 5.0


def check_kafka(settings: Settings, producer: RecordProducer | None = None) -> CollectionTopics:
    """The topics of the collection. Raises ServiceMissing or TopicsWrong, with what to do."""
    try:
        if producer is not None:
            producer.connect(CONNECT_S)
        return collection_topics(settings)
    except BrokerUnavailable as error:
        raise ServiceMissing(
            f"no Kafka at {settings.brokers} (HEADRACE_BROKERS): {error}. Start one, or run `headrace up`."
        ) from error
