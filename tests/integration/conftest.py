"""The running stack that the tests here share: once with everything embedded, once with everything real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack import Stack

REAL = (pytest.mark.kafka, pytest.mark.redis, pytest.mark.model)


@pytest.fixture(scope="package", params=["embedded", pytest.param("real", marks=REAL)])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All three roles, ready. Tests use document ids of their own, and leave the roles running.

    embedded: the broker inside librdkafka, the demo's Redis, the fake of a model.
    real: Kafka, Redis, the default model.
    """
    need = request.getfixturevalue
    if request.param == "real":
        need("default_model")
        made = Stack(tmp_path_factory.mktemp("real"), need("shared_kafka").address, need("shared_redis").url)
    else:
        made = Stack(
            tmp_path_factory.mktemp("embedded"),
            need("embedded_broker").address,
            need("small_redis").url,
            runtime="hashing",
            embedded_broker_id="test",
        )
    with made:
        made.create_topics()
        made.start()
        yield made
