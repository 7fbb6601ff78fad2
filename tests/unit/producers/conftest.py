from __future__ import annotations

import pytest

from app.settings import Settings
from tests.unit.producers.broker import MockBroker


@pytest.fixture(scope="session")
def mock_broker() -> MockBroker:
    return MockBroker()


@pytest.fixture
def settings(mock_broker: MockBroker) -> Settings:
    return mock_broker.settings()
