"""Where a consumer group is, and setting it back while it has no members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from app.kafka.config import librdkafka_config
from app.settings import Settings
from schemas.errors import BrokerUnavailable, GroupActive

TIMEOUT_S = 10.0
_NO_GROUP = KafkaError.GROUP_ID_NOT_FOUND  # Kafka 4; older ones describe it as without members
_HAS_MEMBERS = (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class GroupOffsets:
    """One group. Every method raises BrokerUnavailable if Kafka does not answer."""

    admin: AdminClient
    group: str

    @classmethod
    def of(cls, settings: Settings, group: str) -> GroupOffsets:
        """Connects at first use."""
        return cls(AdminClient(librdkafka_config(settings, "headrace-offsets")), group)

    def members(self) -> list[str]:
        """Hosts and client ids of who is in the group; empty where there is no such group."""
        future = self.admin.describe_consumer_groups([self.group], request_timeout=TIMEOUT_S)[self.group]
        try:
            described = _result(self.group, future)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, KafkaException) and error.__cause__.args[0].code() == _NO_GROUP:
                return []
            raise
        return [f"{member.client_id} on {member.host}" for member in described.members]

    def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """By partition, the offset from which the group would go on; a partition without one is left out."""
        asked = [TopicPartition(topic, partition) for partition in partitions]  # of all, the embedded broker tells none
        (future,) = self.admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self.group, asked)], request_timeout=TIMEOUT_S
        ).values()
        places = _result(self.group, future).topic_partitions
        return {place.partition: place.offset for place in places if place.topic == topic and place.offset >= 0}

    def set(self, topic: str, offsets: Mapping[int, int]) -> None:
        """All or an error. Raises GroupActive while the group has members: Kafka refuses then."""
        places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        (future,) = self.admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self.group, places)], request_timeout=TIMEOUT_S
        ).values()
        for place in _result(self.group, future).topic_partitions:
            if place.error is not None:
                raise _translated(self.group, place.error)

    def require_empty(self) -> None:
        """Raises GroupActive while the group has members."""
        members = self.members()
        if members:
            raise GroupActive(self.group, members)


def _result(group: str, future: Future[Any]) -> Any:
    try:
        return future.result(TIMEOUT_S + 5)
    except KafkaException as error:
        raise _translated(group, error.args[0]) from error


def _translated(group: str, error: KafkaError) -> Exception:
    if error.code() in _HAS_MEMBERS:
        return GroupActive(group, [])
    return BrokerUnavailable(error.str())
