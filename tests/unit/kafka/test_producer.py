"""The producer against librdkafka's in-process broker: every record ends in a position or an error."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from app.kafka.producer import Position, Record, RecordProducer
from app.local.process import free_port
from app.settings import Settings
from schemas.errors import BrokerUnavailable, Rejected, SettingsError
from tests.unit.producers.broker import MockBroker, read_topic


@pytest.fixture(scope="module")
def broker() -> MockBroker:
    return MockBroker()


@pytest.fixture
def settings(broker: MockBroker) -> Settings:
    return broker.settings(max_record_bytes=2**20, max_text_bytes=2**18)


@pytest.fixture
def producer(settings: Settings) -> Iterator[RecordProducer]:
    made = RecordProducer(settings, "test")
    yield made
    made.close(2)


def test_records_arrive_in_order_in_the_partition_they_name_with_their_positions(
    producer: RecordProducer, settings: Settings
) -> None:
    topic = settings.changes_topic
    records = [Record(topic, b"k", b"%d" % number, 2, [("h", b"v"), ("n", None)]) for number in range(50)]
    positions = producer.deliver(records).result(20)
    assert positions == [Position(topic, 2, number) for number in range(50)]
    published = read_topic(settings, 50)
    assert [item.value for item in published] == [b"%d" % number for number in range(50)]
    assert published[0].headers == {"h": b"v", "n": None}


def test_the_partitions_without_a_name_are_those_of_other_clients(producer: RecordProducer, settings: Settings) -> None:
    """Java's murmur2: the embed worker writes where the event came from, a publisher where any client would."""
    records = [Record(settings.changes_topic, key, b"x") for key in (b"a", b"b", b"hello", b"document-1")]
    positions = producer.deliver(records).result(20)
    assert [position.partition for position in positions] == [_java(record.key or b"") for record in records]


def _java(key: bytes) -> int:
    """org.apache.kafka.common.utils.Utils.murmur2, for 4 partitions."""
    mask, mixer = 0xFFFFFFFF, 0x5BD1E995
    hashed = 0x9747B28C ^ len(key)
    body = len(key) - len(key) % 4
    for at in range(0, body, 4):
        word = int.from_bytes(key[at : at + 4], "little") * mixer & mask
        word = (word ^ (word >> 24)) * mixer & mask
        hashed = (hashed * mixer & mask) ^ word
    if tail := key[body:]:
        hashed = (hashed ^ int.from_bytes(tail, "little")) * mixer & mask
    hashed = (hashed ^ (hashed >> 13)) * mixer & mask
    return ((hashed ^ (hashed >> 15)) & 0x7FFFFFFF) % 4


def test_no_records_are_delivered_at_once(producer: RecordProducer) -> None:
    assert producer.deliver([]).result(0) == []


def test_a_null_value_arrives_as_null(producer: RecordProducer, settings: Settings) -> None:
    producer.deliver([Record(settings.changes_topic, b"k", None)]).result(20)
    assert read_topic(settings, 1)[0].value is None


def test_a_record_that_is_too_large_is_rejected_and_its_neighbours_arrive(settings: Settings) -> None:
    producer, topic = RecordProducer(settings, "test"), settings.changes_topic
    done = producer.deliver([Record(topic, b"a", b"x"), Record(topic, b"b", b"x" * 2**21), Record(topic, b"c", b"x")])
    with pytest.raises(Rejected, match=r"larger than the topic \S+\.changes allows"):
        done.result(20)
    assert {item.key for item in read_topic(settings, 2)} == {b"a", b"c"}
    producer.close(2)


def test_a_partition_that_is_not_there_is_retriable_and_names_the_topic_and_the_command(
    producer: RecordProducer, settings: Settings
) -> None:
    producer.deliver([Record(settings.changes_topic, b"k", b"1")]).result(20)
    with pytest.raises(BrokerUnavailable, match=rf"{settings.changes_topic} .*headrace topics create"):
        producer.deliver([Record(settings.changes_topic, b"k", b"2", 99)]).result(20)


def test_a_future_that_was_cancelled_does_not_stop_later_deliveries(
    producer: RecordProducer, settings: Settings
) -> None:
    first: Future[list[Position]] = producer.deliver([Record(settings.changes_topic, b"k", b"1")])
    assert not first.cancel()
    assert producer.deliver([Record(settings.changes_topic, b"k", b"2")]).result(20)


def test_without_a_broker_records_fail_as_unavailable_in_time() -> None:
    settings = Settings(_env_file=None, brokers=f"127.0.0.1:{free_port()}")
    producer = RecordProducer(settings, "test", delivery_timeout_ms=200)
    with pytest.raises(BrokerUnavailable):
        producer.connect(0.2)
    with pytest.raises(BrokerUnavailable):
        producer.deliver([Record("t", b"k", b"x")]).result(10)
    producer.close(1)


def test_what_is_not_confirmed_when_it_is_closed_fails_and_is_counted() -> None:
    settings = Settings(_env_file=None, brokers=f"127.0.0.1:{free_port()}")
    producer = RecordProducer(settings, "test")
    done = producer.deliver([Record("t", b"k", b"1"), Record("t", b"k", b"2")])
    assert producer.close(0.1) == 2
    with pytest.raises(BrokerUnavailable):
        done.result(5)


def test_settings_that_librdkafka_refuses_are_an_error_of_settings(broker: MockBroker) -> None:
    settings = broker.settings(kafka_security_protocol="SSL", kafka_ssl_certificate="/nowhere.pem")
    with pytest.raises(SettingsError, match="Kafka"):
        RecordProducer(settings, "test")
