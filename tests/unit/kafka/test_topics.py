"""What the topics must look like, and what is said when they do not; connection settings of both clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.kafka.config import librdkafka_config, ssl_context
from app.kafka.start import check_kafka
from app.kafka.topics import TopicState, collection_topics, problems, topic_plans
from app.local.process import free_port
from app.settings import Settings
from schemas.errors import BrokerUnavailable, ServiceMissing, TopicsWrong


def settings(**changed: Any) -> Settings:
    return Settings(_env_file=None, **({"collection": "c", "partitions": 3} | changed))


def states() -> dict[str, TopicState]:
    """As `topics create` makes them."""
    return {
        plan.name: TopicState(
            plan.name,
            f"id-{plan.name}",
            plan.partitions,
            1,
            plan.exact | {name: str(value) for name, value in plan.at_least.items()},
        )
        for plan in topic_plans(settings())
    }


class Admin:
    """Stands for TopicAdmin."""

    def __init__(self, found: dict[str, TopicState]) -> None:
        self.found = found

    def describe(self, names: list[str]) -> dict[str, TopicState]:
        return {name: self.found[name] for name in names if name in self.found}


def checked(found: dict[str, TopicState]) -> Any:
    return collection_topics(settings(), Admin(found))  # type: ignore[arg-type]


def changed(name: str, config: dict[str, str] | None = None, **fields: Any) -> dict[str, TopicState]:
    found = states()
    found[name] = replace(found[name], config=found[name].config | (config or {}), **fields)
    return found


def test_topics_as_they_are_created_are_right_and_the_epoch_is_their_ids() -> None:
    assert problems(topic_plans(settings()), states()) == []
    told = checked(states())
    assert (told.partitions, told.epoch) == (3, "id-c.changes.id-c.vectors")


def test_another_number_of_partitions_than_the_settings_is_fine_if_both_have_it() -> None:
    found = {name: replace(state, partitions=8) for name, state in states().items()}
    assert checked(found).partitions == 8


def test_more_room_and_no_limit_are_fine() -> None:
    assert checked(changed("c.dlq", {"retention.ms": "-1", "max.message.bytes": "999999999"})).partitions == 3


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, ["topic c.changes does not exist", "headrace topics create --collection c"]),
        (
            {name: state for name, state in states().items() if name != "c.vectors"},
            ["topic c.vectors does not exist", "--partitions 3"],
        ),
        (changed("c.vectors", {"cleanup.policy": "delete"}), ["cleanup.policy=delete, needs compact", "kafka-configs"]),
        (changed("c.vectors", {"delete.retention.ms": "86400000"}), ["delete.retention.ms=86400000, needs at least"]),
        (changed("c.changes", {"max.message.bytes": "1048576"}), ["max.message.bytes=1048576, needs at least"]),
        (changed("c.vectors", partitions=4), ["c.changes has 3 partitions, c.vectors has 4", "must be the same"]),
    ],
)
def test_wrong_topics_are_named_with_what_mends_them(found: dict[str, TopicState], words: list[str]) -> None:
    with pytest.raises(TopicsWrong) as caught:
        checked(found)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_topic_made_again_is_another_epoch() -> None:
    assert checked(changed("c.changes", id="new")).epoch != checked(states()).epoch
    assert checked(changed("c.vectors", id="new")).epoch != checked(states()).epoch


def test_the_embedded_broker_is_taken_as_it_is() -> None:
    told = collection_topics(settings(embedded_broker_id="run1"))
    assert (told.partitions, told.epoch) == (3, "embedded-run1")


def test_a_kafka_that_is_missing_at_the_start_is_named_with_what_to_do() -> None:
    class Away:
        def connect(self, _: float) -> int:
            raise BrokerUnavailable("no route")

    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServiceMissing, match=rf"no Kafka at {address} \(HEADRACE_BROKERS\): no route.*headrace up"):
        check_kafka(settings(brokers=address), Away())  # type: ignore[arg-type]


def test_credentials_and_certificates_reach_librdkafka() -> None:
    config = librdkafka_config(
        settings(
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username="u",
            kafka_sasl_password="p",
            kafka_ssl_ca="/ca.pem",
            kafka_ssl_key_password="k",
        ),
        "me",
    )
    assert (config["client.id"], config["security.protocol"]) == ("me", "SASL_SSL")
    assert (config["sasl.mechanism"], config["sasl.username"], config["sasl.password"]) == ("SCRAM-SHA-512", "u", "p")
    assert (config["ssl.ca.location"], config["ssl.key.password"]) == ("/ca.pem", "k")
    assert "ssl.certificate.location" not in config


def test_without_tls_there_is_no_context_and_no_password_in_the_config() -> None:
    assert ssl_context(settings()) is None
    assert not {name for name in librdkafka_config(settings(), "me") if name.startswith(("ssl", "sasl"))}


def test_with_tls_the_brokers_certificate_is_checked() -> None:
    import ssl

    context = ssl_context(settings(kafka_security_protocol="SSL"))
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
