"""Redis as an optimisation: every call is bounded in time, and a Redis that fails is left alone for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.settings import Settings
from schemas.errors import ServiceMissing

log = logging.getLogger("headrace.redis")
T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


class RedisLink:
    """One connection pool and its circuit breaker. Thread-safe; `call` never raises for Redis' sake."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = settings.redis_url
        self._clock = clock
        self._pause_s = 0.0
        self._closed_until = 0.0
        self.failures = 0
        self._client = _client(settings) if settings.redis_url else None

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

    def call(self, action: Callable[[redis.Redis], T]) -> T | None:
        """Run `action` on the client; None if Redis is not configured, is being left alone, or fails."""
        if self._client is None or self._clock() < self._closed_until:
            return None
        try:
            result = action(self._client)
        except redis.RedisError as error:
            self._failed(error)
            return None
        if self._pause_s:
            log.info("Redis at %s answers again", _masked(self.url))
            self._pause_s = 0.0
        return result

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, in order; None for each where Redis has nothing or cannot say."""
        values = self.call(lambda client: cast("list[bytes | None]", client.mget(keys))) if keys else None
        return [None] * len(keys) if values is None else values

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def _failed(self, error: Exception) -> None:
        if self._pause_s == 0.0:
            log.warning("Redis at %s fails (%s): going on without it", _masked(self.url), error)
        self.failures += 1
        self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._closed_until = self._clock() + self._pause_s


def _client(settings: Settings) -> redis.Redis:
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
        **options,
    )


def _masked(url: str | None) -> str:
    scheme, _, rest = (url or "").partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
