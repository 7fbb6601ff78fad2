"""A broker that does not answer is given up after a while, and connected to anew; a group may take its time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest

from consumers import silence

LIMIT_S = 0.05


class Connection:
    def __init__(self) -> None:
        self.closed: list[Any] = []

    def close(self, reason: Any = None) -> None:
        self.closed.append(reason)


class Client:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._conns = {(1, ConnectionGroup.DEFAULT): Connection(), (1, ConnectionGroup.COORDINATION): Connection()}

    async def send(self, _node_id: int, _request: object, **_: object) -> str:
        return await asyncio.shield(self.answer)

    def closed(self) -> list[int]:
        return [len(connection.closed) for connection in self._conns.values()]


def attached() -> Client:
    client = Client()
    silence.attach(SimpleNamespace(_client=client), LIMIT_S)
    return client


async def test_what_is_not_answered_is_given_up_and_its_connection_closed() -> None:
    client = attached()
    with pytest.raises(RequestTimedOutError):
        await client.send(1, object())
    assert client.closed() == [1, 0]
    with pytest.raises(RequestTimedOutError):
        await client.send(1, object.__new__(HeartbeatRequest), group=ConnectionGroup.COORDINATION)
    assert client.closed() == [1, 1]


async def test_an_answer_in_time_is_passed_on() -> None:
    client = attached()
    client.answer.set_result("here")
    assert await client.send(1, object()) == "here"
    assert client.closed() == [0, 0]


@pytest.mark.parametrize("kind", [JoinGroupRequest, SyncGroupRequest])
async def test_a_group_may_wait_for_its_other_members(kind: type) -> None:
    client = attached()
    asyncio.get_running_loop().call_later(LIMIT_S * 4, client.answer.set_result, "joined")
    assert await client.send(1, object.__new__(kind), group=ConnectionGroup.COORDINATION) == "joined"


async def test_aiokafka_still_has_what_is_replaced() -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    assert callable(consumer._client.send)
    assert consumer._client._conns == {}
    consumer._closed = True
