"""A broker whose machine is gone closes no connection: what was asked of it is not answered, and nobody says so."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

log = logging.getLogger("headrace.worker")

ANSWER_S = 20.0  # a fetch waits for 20 ms and may carry 50 MB
# a group answers these when its other members have let go of their partitions, which may take a minute
_PATIENT = (JoinGroupRequest, SyncGroupRequest)


def attach(consumer: Any, answer_s: float = ANSWER_S) -> None:
    """Let no request of an AIOKafkaConsumer but those wait longer; in its thread, once it has been started.

    Its own limit is that of the slowest request, 90 s: for so long nothing would be read.
    """
    client = consumer._client
    send = client.send

    async def limited(node_id: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, _PATIENT):
            return await send(node_id, request, **options)
        try:
            async with asyncio.timeout(answer_s):
                return await send(node_id, request, **options)
        except TimeoutError as error:
            log.warning("broker %s has not answered for %.0f s: connecting anew", node_id, answer_s)
            connection = client._conns.get((node_id, options.get("group", ConnectionGroup.DEFAULT)))
            if connection is not None:
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError from error

    client.send = limited
