"""HeadraceClient: publish, wait until it can be found, search, and prove it, in one object."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from app.gateway.remote import TIMEOUT_S, ask, ask_document
from app.kafka.producer import Position
from app.settings import Settings
from producers.publisher import Delivery, DocumentPublisher, min_offsets
from schemas.errors import BrokerUnavailable, GatewayUnavailable, NotApplied, NotFound, NotServing, WaitTimeout
from schemas.waiting import Replicas

T = TypeVar("T")
Answer = dict[str, Any]

_MOST_WAIT_MS = 60_000  # of one request
# A gateway says which worker hangs its shard_timeout_ms (1 s) after the time it was asked to wait; as much for the way.
_SLACK_S = 2.0
_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that every shard that was waited for has applied.

    trace_id: 32 hex digits. publish_ms: until Kafka confirmed it; wait_ms: from then until it was applied. waited: the
    answer of POST /wait, with the freshness of each replica.
    """

    position: Position
    trace_id: str
    publish_ms: float
    wait_ms: float
    waited: Answer

    @property
    def min_offsets(self) -> dict[str, int]:
        """For a search, of any gateway, that must see the change."""
        return min_offsets([self.position])


class HeadraceClient:
    """Publishes to Kafka and asks a gateway. Thread-safe; close it, or use `with`. Keep one for an application::

        with HeadraceClient("http://127.0.0.1:8080") as client:
            done = client.publish_and_wait("greeting", "Hello, stream.")
            client.search("hello")["hits"]                 # has it
            client.delete_and_wait("greeting")
            client.receipt("greeting")["everywhere_at"]

    From asyncio: `await asyncio.to_thread(client.publish_and_wait, "greeting", "Hello, stream.")`.

    url: of the gateway. publisher: default one with `settings`, made when something is published; one that is given is
    not closed here. settings: of that publisher, default `load_settings()`. Does not connect.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        settings: Settings | None = None,
        publisher: DocumentPublisher | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._settings = settings
        self._publisher = publisher
        self._owns_publisher = publisher is None
        self._making = threading.Lock()
        self._closed = False
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-client", daemon=True)
        self._thread.start()

    def publish_and_wait(
        self,
        id: str,
        text: str,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        version: int | None = None,
        event_time: datetime | str | int | None = None,
        timeout_s: float = 10,
        replicas: Replicas = "all",
    ) -> Applied:
        """Publish a document and return once searches of any mode see it; see DocumentPublisher.upsert and `wait`.

        Returns as well for a change that produces nothing: unchanged content, an older version, one that becomes a dead
        letter; `document` says what is there. timeout_s: for all of it; a second more where a worker hangs, two where
        the gateway does.
        Raises InvalidChange or Rejected (it can never be indexed), BrokerUnavailable (not confirmed: publish it again,
        that is always safe), NotApplied or GatewayUnavailable (it is published: `wait` for its `min_offsets` again).
        """
        fields: dict[str, Any] = {"title": title, "metadata": metadata, "version": version, "event_time": event_time}
        return self._until_applied(lambda publisher: publisher.upsert(id, text, **fields), timeout_s, replicas)

    def delete_and_wait(
        self, id: str, *, version: int | None = None, timeout_s: float = 10, replicas: Replicas = "all"
    ) -> Applied:
        """Delete a document and return once no search sees it; it need not exist. See `publish_and_wait`."""
        return self._until_applied(lambda publisher: publisher.delete(id, version=version), timeout_s, replicas)

    def wait(
        self,
        positions: Position | Iterable[Position] | Mapping[str, int],
        timeout_s: float = 10,
        replicas: Replicas = "all",
    ) -> Answer:
        """Return once these changes are applied: the answer of POST /wait, empty where there is nothing to wait for.

        positions: of delivery reports, or a `min_offsets`. replicas: `all` that the gateway knows, so that whoever is
        asked next has them; `any`, where one is enough: then searches need `min_offsets` to be sure.
        A gateway that is away is asked again until the time is over; one that hangs is given two seconds more. Raises
        NotApplied, which says which shard of which replica is how far, GatewayUnavailable, or BadRequest if there is no
        such partition.
        """
        wanted = _wanted(positions)
        return self._run(self._wait(wanted, timeout_s, replicas)) if wanted else {}

    def search(self, query: str | None = None, **fields: Any) -> Answer:
        """The answer of POST /search.

        fields: of its body, as k, mode, filter, min_offsets, max_staleness_ms, timeout_ms.
        Raises BadRequest, NotServing, WaitTimeout as the gateway answers, GatewayUnavailable if it does not.
        """
        body = fields if query is None else {"query": query, **fields}
        waits_ms = fields.get("timeout_ms")
        timeout_s = TIMEOUT_S + (waits_ms / 1000 if isinstance(waits_ms, int) else 0)
        return self._run(self._asked("POST", "/search", body, timeout_s))

    def document(self, id: str) -> Answer | None:
        """The stored document; None where there is none, or it was deleted. Raises as `search` does.

        None is what the gateway says of this very id. Whatever else is not found, as at a wrong `url`, is
        GatewayUnavailable.
        """
        return self._run(self._found(id))

    def receipt(self, id: str) -> Answer | None:
        """Which replicas have the newest state of a document, deleted ones included; None where nobody ever had it.

        None is as much of a proof as that of `document`.
        """
        return self._run(self._found(id, "/receipt"))

    def close(self) -> None:
        """Wait for what is being published, and end. Calls under way in other threads fail."""
        with self._making:
            if self._closed:
                return
            self._closed = True
        if self._owns_publisher and self._publisher is not None:
            self._publisher.close()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> HeadraceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _until_applied(
        self, publish: Callable[[DocumentPublisher], Delivery], timeout_s: float, replicas: Replicas
    ) -> Applied:
        started = time.monotonic()
        delivery = publish(self._publishing())
        try:
            position = delivery.result(timeout_s)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"Kafka has not confirmed the change within {timeout_s:g} s; it may be written yet, and publishing it "
                "again is safe"
            ) from error
        published = time.monotonic()
        left_s = started + timeout_s - published
        waited = self._run(self._wait(min_offsets([position]), left_s, replicas))
        publish_ms, wait_ms = (published - started) * 1000, (time.monotonic() - published) * 1000
        return Applied(position, delivery.trace_id, round(publish_ms, 3), round(wait_ms, 3), waited)

    def _publishing(self) -> DocumentPublisher:
        with self._making:
            self._check_open()
            if self._publisher is None:
                self._publisher = DocumentPublisher(self._settings)
            return self._publisher

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._making:  # `close` ends what was submitted before it, and nothing is submitted after
            try:
                self._check_open()
            except ValueError:
                work.close()
                raise
            submitted = asyncio.run_coroutine_threadsafe(work, self._loop)
        return submitted.result()

    async def _found(self, id: str, what: str = "") -> Answer | None:
        try:
            return await ask_document(self._connected(), self.url, id, what)
        except NotFound:
            return None

    async def _asked(self, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        return await ask(self._connected(), self.url, method, path, body, timeout_s=timeout_s)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    async def _wait(self, wanted: dict[str, int], timeout_s: float, replicas: Replicas) -> Answer:
        """At least one request, however little time is left."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            timeout_ms = min(max(1, round(left_s * 1000)), _MOST_WAIT_MS)
            body = {"min_offsets": wanted, "timeout_ms": timeout_ms, "replicas": replicas}
            try:
                return await self._asked("POST", "/wait", body, timeout_ms / 1000 + _SLACK_S)
            except WaitTimeout as error:
                if time.monotonic() + _AGAIN_S >= deadline:
                    raise NotApplied(f"published, but {error}. {_again(wanted)}", wanted) from error
            except (GatewayUnavailable, NotServing) as error:
                if time.monotonic() + _AGAIN_S >= deadline:
                    raise GatewayUnavailable(f"{error} {_again(wanted)}", wanted) from error
            await asyncio.sleep(_AGAIN_S)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this client is closed")


def _wanted(positions: Position | Iterable[Position] | Mapping[str, int]) -> dict[str, int]:
    if isinstance(positions, Mapping):
        return dict(positions)
    return min_offsets([positions] if isinstance(positions, Position) else positions)


def _again(wanted: dict[str, int]) -> str:
    return f"What is published stays so and may be waited for again: min_offsets {wanted}"
