from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.kafka.producer import RecordProducer
from app.settings import PREFIX
from tests.unit.dlq.post import Post
from tests.unit.producers.broker import MockBroker


@pytest.fixture(scope="package")
def broker() -> MockBroker:
    return MockBroker()


@pytest.fixture
def post(broker: MockBroker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    settings = broker.settings()
    for name in ("brokers", "collection"):
        monkeypatch.setenv(PREFIX + name.upper(), getattr(settings, name))
    producer = RecordProducer(settings, "test")
    yield Post(settings, producer, capsys)
    producer.close(2)
