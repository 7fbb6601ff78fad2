"""Redis as an optimisation: calls and batches are bounded in time, and a Redis that fails is left alone for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.redis_connection import Deadline, connection_class
from app.settings import Settings
from schemas.errors import ServiceMissing

log = logging.getLogger("headrace.redis")
T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


@dataclass(slots=True)
class RedisBatch:
    """What Redis may take of one batch's time, and has taken."""

    room_s: float
    spent_s: float = 0.0
    calls: int = 0
    failed: bool = False

    @property
    def left_s(self) -> float:
        """0 or less: Redis is asked no more in this batch."""
        return self.room_s - self.spent_s


class _Present(threading.local):
    """The batch that a thread is in."""

    batch: RedisBatch | None = None


class RedisLink:
    """One connection pool and its circuit breaker. Thread-safe; `call` never raises for Redis' sake."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = settings.redis_url
        self._clock = clock
        self._timeout_s = settings.redis_timeout_ms / 1000
        self._batch_s = settings.redis_batch_ms / 1000
        self._present = _Present()
        self._deadline = Deadline()
        self._pause_s = 0.0
        self._closed_until = 0.0
        self._too_slow = False  # a batch used up its time: only a whole batch can show that it is better
        self.failures = 0
        self._client = _client(settings, self._deadline) if settings.redis_url else None

    @property
    def state(self) -> str:
        """`ok`, `unavailable` or `not configured`."""
        if self._client is None:
            return "not configured"
        return "ok" if self._pause_s == 0.0 else "unavailable"

    def require(self) -> None:
        """At the start of a role: raises ServiceMissing if Redis is configured but does not answer."""
        if self._client is None:
            return
        try:
            self._client.ping()
        except redis.RedisError as error:
            raise ServiceMissing(
                f"no Redis at {_masked(self.url)} (HEADRACE_REDIS_URL): {str(error).rstrip('.')}. "
                "Start one, or set HEADRACE_REDIS_URL= (empty) to run without: slower, but as correct."
            ) from error

    @contextmanager
    def batch(self) -> Iterator[RedisBatch]:
        """Calls of this thread in the block take at most redis_batch_ms together; those that come later are None.

        A batch that uses up its time counts as a failure.
        """
        batch = self._present.batch = RedisBatch(self._batch_s)
        try:
            yield batch
        finally:
            self._present.batch = None
            if batch.calls and not batch.failed:
                self._too_slow = False
                self._answered()

    def call(self, action: Callable[[redis.Redis], T]) -> T | None:
        """Run `action` on the client; None if Redis is not configured, is being left alone, or fails.

        It has redis_timeout_ms, or what is left of the batch if that is less, however many commands it sends.
        """
        started, batch = self._clock(), self._present.batch
        if self._client is None or started < self._closed_until or (batch is not None and batch.left_s <= 0):
            return None
        result, error = None, None
        try:
            with self._deadline.within(min(self._timeout_s, batch.left_s) if batch else self._timeout_s):
                result = action(self._client)
        except redis.RedisError as raised:
            error = raised
        if batch is not None:
            batch.calls += 1
            batch.spent_s += self._clock() - started
        if error is not None:
            self._failed(str(error))
        elif batch is not None and batch.left_s <= 0:
            self._too_slow = True
            self._failed(f"slow: {batch.calls} calls of one batch took {batch.spent_s:.1f} s")
        elif batch is None and not self._too_slow:
            self._answered()
        return result

    def must(self, action: Callable[[redis.Redis], T], otherwise: str) -> T:
        """As `call`, for commands that cannot do without. Raises ServiceMissing. otherwise: what can be done then."""
        answer = self.call(action)
        if answer is None:
            raise ServiceMissing(f"Redis does not answer (HEADRACE_REDIS_URL){otherwise}")
        return answer

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, in order; None for each where Redis has nothing or cannot say."""
        values = self.call(lambda client: cast("list[bytes | None]", client.mget(keys))) if keys else None
        return [None] * len(keys) if values is None else values

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def _answered(self) -> None:
        if self._pause_s:
            log.info("Redis at %s answers again", _masked(self.url))
            self._pause_s = 0.0

    def _failed(self, reason: str) -> None:
        if self._present.batch is not None:
            self._present.batch.failed = True
        if self._pause_s == 0.0:
            log.warning("Redis at %s fails (%s): going on without it", _masked(self.url), reason)
        self.failures += 1
        self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._closed_until = self._clock() + self._pause_s


def _client(settings: Settings, deadline: Deadline) -> redis.Redis:
    assert settings.redis_url is not None
    timeout_s = settings.redis_timeout_ms / 1000
    options: dict[str, object] = {}
    if settings.redis_password is not None:
        options["password"] = settings.redis_password.get_secret_value()
    if settings.redis_ssl_ca is not None and settings.redis_url.startswith("rediss"):
        options["ssl_ca_certs"] = str(settings.redis_ssl_ca)
    return redis.Redis.from_url(
        settings.redis_url,
        # the client's own default is ten retries with back-off: four seconds for one refused connection
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        connection_class=connection_class(settings.redis_url),
        deadline=deadline,
        **options,
    )


def _masked(url: str | None) -> str:
    scheme, _, rest = (url or "").partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
