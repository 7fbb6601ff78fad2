"""The local Kafka: what was acknowledged outlives kill -9."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app.local import kafka_home
from app.local.kafka import LocalKafka
from app.local.kafka_home import random_id
from schemas.errors import ServiceMissing
from tests.services_local import is_alive, kafka_or_skip


@pytest.mark.kafka
def test_acknowledged_records_are_there_after_kill_and_restart(tmp_path: Path) -> None:
    with LocalKafka(tmp_path, home=kafka_or_skip()) as kafka:
        settings = {"bootstrap.servers": kafka.address, "log_level": 0}
        admin = AdminClient(settings)  # its futures fail when it is forgotten
        admin.create_topics([NewTopic("t", 1, 1)])["t"].result(10)
        producer = Producer({**settings, "acks": "all"})
        for number in range(100):
            producer.produce("t", value=b"%d" % number)
        assert producer.flush(10) == 0
        killed = kafka.pid

        kafka.kill()
        kafka.restart()

        consumer = Consumer({**settings, "group.id": "g"})
        assert consumer.get_watermark_offsets(TopicPartition("t", 0), timeout=10) == (0, 100)
        consumer.close()
        last = kafka.pid
    assert killed is not None
    assert last is not None
    assert killed != last
    assert not is_alive(killed)
    assert not is_alive(last)


@pytest.mark.kafka
def test_a_broker_that_ends_at_its_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path, home=kafka_or_skip(), extra={"log.dirs": "/dev/null/nowhere"})

    with pytest.raises(ServiceMissing, match="ended with status"):
        kafka.start()
    assert kafka.pid is None


@pytest.mark.parametrize(("programs", "missing"), [((), "Java"), (("java",), "Maven")])
def test_without_java_or_maven_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, programs: tuple[str, ...], missing: str
) -> None:
    for name in programs:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    with pytest.raises(ServiceMissing, match=rf"{missing}.*apt-get install .*HEADRACE_BROKERS"):
        kafka_home.kafka_home(lambda _: None)


def test_ids_never_begin_with_a_dash_that_a_command_line_would_take_for_an_option() -> None:
    assert not [made for made in (random_id() for _ in range(500)) if made.startswith("-") or len(made) != 22]
