"""The three topics of a collection: what they must look like, how they do, and making them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from app.kafka.config import librdkafka_config
from app.settings import Settings
from schemas.errors import BrokerUnavailable, PartitionsChanged, TopicsWrong

TIMEOUT_S = 10.0
BROKERS_TIME = {"message.timestamp.type": "LogAppendTime"}
# whoever is less than an hour behind reads every record: a later change has not taken the place of an earlier one yet
UNCOMPACTED = {"min.compaction.lag.ms": str(3_600_000)}
LETTER_ROOM_BYTES = 2**16  # what the error headers may add to an event that is as large as an event may be


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What a topic needs. `exact`: configuration that must be so; `at_least`: smallest accepted values; `made`: what a
    topic that we make has beyond that."""

    name: str
    partitions: int
    exact: dict[str, str]
    at_least: dict[str, int]
    made: dict[str, str]


@dataclass(frozen=True, slots=True)
class TopicState:
    """What a topic is. `id` changes when the topic is deleted and made again."""

    name: str
    id: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class CollectionTopics:
    """What workers need to know: the partition count and the epoch (the life of the topics)."""

    partitions: int
    epoch: str

    @property
    def mark(self) -> str:
        """Both, as committed offsets carry them: Kafka itself would take an offset for one of any life of a topic."""
        return f"{self.epoch}/{self.partitions}"

    def began(self, mark: str) -> bool:
        """Whether the mark is of this very life. Raises PartitionsChanged if it had another number of partitions."""
        epoch, _, partitions = mark.rpartition("/")
        if epoch == self.epoch and partitions != str(self.partitions):
            raise PartitionsChanged(partitions, self.partitions)
        return epoch == self.epoch


def topic_plans(settings: Settings) -> tuple[TopicPlan, TopicPlan, TopicPlan]:
    """The changes, vectors and dead-letter topic as `topics create` makes them.

    Changes are kept for ever in compacted form: the last state of every document can be embedded again with
    another model. Timestamps are the broker's, so that "everything up to then" is true whatever the clocks of
    producers and workers say. Dead letters wait for people: 30 days.
    """
    size = {"max.message.bytes": settings.max_record_bytes}
    tombstones = {"delete.retention.ms": settings.tombstone_retention_hours * 3_600_000}
    compacted, made = {"cleanup.policy": "compact"}, BROKERS_TIME | UNCOMPACTED
    return (
        TopicPlan(settings.changes_topic, settings.partitions, compacted, size | tombstones, made),
        TopicPlan(settings.vectors_topic, settings.partitions, compacted, size | tombstones, made),
        TopicPlan(
            settings.dlq_topic,
            1,
            {"cleanup.policy": "delete"},
            size | {"retention.ms": 30 * 24 * 3_600_000},
            {"max.message.bytes": str(settings.max_record_bytes + LETTER_ROOM_BYTES)},
        ),
    )


class TopicAdmin:
    """Describes and creates topics. Every method raises BrokerUnavailable if Kafka does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = AdminClient(librdkafka_config(settings, "headrace-topics"))

    def describe(self, names: Iterable[str]) -> dict[str, TopicState]:
        """The state of those topics that exist."""
        wanted = list(names)
        futures = self._admin.describe_topics(TopicCollection(wanted), request_timeout=TIMEOUT_S)
        found = {}
        for name, future in futures.items():
            try:
                found[name] = future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise BrokerUnavailable(error.args[0].str()) from error
        configs = self._configs(found)
        return {
            name: TopicState(
                name=name,
                id=_safe_id(described.topic_id),
                partitions=len(described.partitions),
                replication_factor=len(described.partitions[0].replicas),
                config=configs[name],
            )
            for name, described in found.items()
        }

    def create(self, plans: Iterable[TopicPlan]) -> list[str]:
        """Create those that do not exist; returns their names. Raises TopicsWrong if the broker refuses."""
        new = [
            NewTopic(
                plan.name,
                num_partitions=plan.partitions,
                replication_factor=self._settings.replication_factor,
                config=plan.exact | {name: str(value) for name, value in plan.at_least.items()} | plan.made,
            )
            for plan in plans
        ]
        created = []
        for name, future in self._admin.create_topics(new, operation_timeout=TIMEOUT_S).items():
            try:
                future.result()
                created.append(name)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue
                if code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                    raise BrokerUnavailable(error.args[0].str()) from error
                raise TopicsWrong(f"Kafka refused to create {name}: {error.args[0].str()}") from error
        return created

    def _configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        resources = {ConfigResource(ConfigResource.Type.TOPIC, name): name for name in names}
        if not resources:
            return {}
        configs = {}
        for resource, future in self._admin.describe_configs(list(resources), request_timeout=TIMEOUT_S).items():
            try:
                entries = future.result()
            except KafkaException as error:
                raise BrokerUnavailable(error.args[0].str()) from error
            configs[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
        return configs


def problems(plans: Iterable[TopicPlan], states: dict[str, TopicState]) -> list[str]:
    """What is wrong, a sentence each; empty when the topics are as they must be.

    The number of partitions may differ from the settings, but must be the same for changes and vectors.
    """
    found = []
    for plan in plans:
        state = states.get(plan.name)
        if state is None:
            found.append(f"topic {plan.name} does not exist")
            continue
        for name, value in plan.exact.items():
            if state.config.get(name) != value:
                found.append(f"topic {plan.name} has {name}={state.config.get(name)}, needs {value}")
        for name, least in plan.at_least.items():
            actual = int(state.config.get(name, "0"))
            if actual < least and actual != -1:  # -1: without limit
                found.append(f"topic {plan.name} has {name}={actual}, needs at least {least}")
    return found


def collection_topics(settings: Settings, admin: TopicAdmin | None = None) -> CollectionTopics:
    """Check the topics of the collection; for workers, at their start.

    Raises TopicsWrong with what is wrong and the command that mends it, BrokerUnavailable if Kafka is away.
    The embedded broker of the demo knows no topic administration: it is taken as it is.
    """
    if settings.embedded_broker_id is not None:
        return CollectionTopics(settings.partitions, f"embedded-{settings.embedded_broker_id}")
    plans = topic_plans(settings)
    states = (admin or TopicAdmin(settings)).describe([plan.name for plan in plans])
    wrong = problems(plans, states)
    changes, vectors = states.get(settings.changes_topic), states.get(settings.vectors_topic)
    if changes and vectors and changes.partitions != vectors.partitions:
        wrong.append(
            f"{changes.name} has {changes.partitions} partitions, {vectors.name} has {vectors.partitions}: "
            "they must be the same, a shard is a partition of both"
        )
    if wrong or changes is None or vectors is None:
        raise TopicsWrong("; ".join(wrong) + ". Run: " + _remedy(settings, states))
    return CollectionTopics(changes.partitions, f"{changes.id}.{vectors.id}")


def _remedy(settings: Settings, states: dict[str, TopicState]) -> str:
    command = f"headrace topics create --collection {settings.collection} --brokers {settings.brokers}"
    existing = {states[name].partitions for name in (settings.changes_topic, settings.vectors_topic) if name in states}
    if len(existing) == 1:
        command += f" --partitions {existing.pop()}"
    if len(states) == 3 or len(existing) == 2:
        return "kafka-configs.sh or kafka-topics.sh to mend the existing topic (headrace never alters one)"
    return command


def _safe_id(topic_id: object) -> str:
    """The 128-bit topic id as hex: its usual base64 has characters that file names and keys cannot carry."""
    high, low = topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits()  # type: ignore[attr-defined]
    return f"{high & (2**64 - 1):016x}{low & (2**64 - 1):016x}"
