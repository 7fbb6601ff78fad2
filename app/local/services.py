"""Kafka and Redis for `headrace up`: those of the settings, else our own where nobody asked for others."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.kafka.config import librdkafka_config
from app.kafka.start import check_kafka
from app.kafka.topics import TopicAdmin, topic_plans
from app.local.console import Console
from app.local.kafka import LocalKafka, prepare
from app.local.process import listens, port_is_free
from app.local.redis import INSTALL, LocalRedis, find_redis_server
from app.redis_link import RedisLink
from app.settings import Settings
from schemas.errors import ServiceMissing

KAFKA_PORT = 9092  # where the settings look by default, so that other commands find them
REDIS_PORT = 6379


def kafka_for(settings: Settings, given: set[str], folder: Path, stack: ExitStack, console: Console) -> str:
    """Bootstrap servers of a Kafka that answers and has the topics.

    given: names of the settings that are not at their default; a Kafka that was asked for must be there. A Kafka
    of our own keeps its data in `folder`, is stopped by `stack`, and gets the topics; another one's are only checked.
    Raises ServiceMissing, or TopicsWrong with the command that mends them.
    """
    if _kafka_answers(settings):
        console.step(f"using the Kafka at {settings.brokers}")
        check_kafka(settings)
        return settings.brokers
    if "brokers" in given:
        raise ServiceMissing(
            f"no Kafka at {settings.brokers} (HEADRACE_BROKERS): start it, or unset it and have one started"
        )
    home = prepare(console.step)
    kafka = stack.enter_context(LocalKafka(folder / "kafka", KAFKA_PORT, heap_mb=512, home=home))
    console.step(f"started Kafka at {kafka.address}; its data is in {folder / 'kafka'}")
    own = settings.model_copy(update={"brokers": kafka.address})
    for name in TopicAdmin(own).create(topic_plans(own)):
        console.step(f"created topic {name}")
    check_kafka(own)
    return kafka.address


def redis_for(settings: Settings, given: set[str], folder: Path, stack: ExitStack, console: Console) -> str | None:
    """URL of a Redis that answers; None: run without one, which costs time and never a document.

    Arguments as in `kafka_for`. Raises ServiceMissing.
    """
    if settings.redis_url is None:
        console.step("no Redis, as HEADRACE_REDIS_URL is empty")
        return None
    link = RedisLink(settings)
    try:
        link.require()
    except ServiceMissing:
        if "redis_url" in given or not port_is_free("127.0.0.1", REDIS_PORT):
            raise
    else:
        console.step(f"using the Redis at {settings.redis_url.rpartition('@')[2]}")
        return settings.redis_url
    finally:
        link.close()
    if find_redis_server() is None:
        console.step(f"no Redis: repeated work is not avoided; {INSTALL}")
        return None
    server = stack.enter_context(LocalRedis(folder / "redis", REDIS_PORT))
    console.step(f"started {server.program.name} at {server.url}; its data is in {folder / 'redis'}")
    return server.url


def _kafka_answers(settings: Settings) -> bool:
    """False where nothing listens. Raises ServiceMissing where something listens that does not answer as this Kafka."""
    addresses = [item.strip().rpartition("://")[2].rpartition(":") for item in settings.brokers.split(",")]
    if not any(port.isdigit() and listens(host.strip("[]"), int(port)) for host, _, port in addresses):
        return False
    try:
        AdminClient(librdkafka_config(settings, "headrace-up")).list_topics(timeout=10)
    except KafkaException as error:
        raise ServiceMissing(
            f"what listens at {settings.brokers} does not answer as Kafka ({settings.kafka_security_protocol}): "
            f"{error.args[0].str()}"
        ) from error
    return True
