"""Two workers that meet the same new text at the same time: one embeds it, the other waits a moment for the vector.

A claim is a key in Redis that lives for seconds. It promises nothing: who waited in vain embeds the text itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import cast

import redis

from app.embed.cache import TextCache
from app.redis_link import RedisLink

_LIVES_MS = 5000  # longer than a batch takes in the model; a worker that was killed leaves its claims for so long
# Below this a round trip (0.05 ms for a text, 0.7 ms for 256) is saved: two workers rarely meet within so short a time.
_LEAST_S = 0.01
_LONGEST_WAIT_S = 0.5  # a batch is made to take the model about half a second
_STEP_S = 0.01

# KEYS: n claims. ARGV: who claims, ms to live. Returns for each whether it is ours: a batch that is tried again meets
# its own claims.
_CLAIM = """
local ours = {}
for i = 1, #KEYS do
  local taken = redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2])
  ours[i] = (taken or redis.call('GET', KEYS[i]) == ARGV[1]) and 1 or 0
end
return ours
"""


class Claims:
    """On the texts of one cache. Called by one thread at a time; does nothing without Redis.

    alone: whether no other worker shares the work at present. longest_wait_s: see `wait`.
    """

    def __init__(
        self,
        link: RedisLink,
        cache: TextCache,
        alone: Callable[[], bool],
        *,
        longest_wait_s: float = _LONGEST_WAIT_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._link = link
        self._cache = cache
        self._alone = alone
        self._longest_wait_s = longest_wait_s
        self._sleep = sleep
        self._me = uuid.uuid4().bytes

    def taken(self, keys: Sequence[bytes], model_s: float | None) -> set[bytes]:
        """Claim what nobody has claimed; returns the keys that another worker is embedding.

        model_s: how long the model would take for all of them, None if that is not known. Claims only where it pays.
        """
        if not keys or self._alone() or (model_s is not None and model_s < _LEAST_S):
            return set()
        names = self._names(keys)

        def claim(client: redis.Redis) -> list[int]:
            return cast("list[int]", client.eval(_CLAIM, len(names), *names, self._me, _LIVES_MS))

        ours = self._link.call(claim)
        return set() if ours is None else {key for key, own in zip(keys, ours, strict=True) if not own}

    def wait(self, keys: Collection[bytes], model_s: float | None) -> dict[bytes, bytes]:
        """The values of the keys that arrive in time.

        model_s: how long the model would take for them: waiting longer would cost more than it spares. Ends sooner
        where nobody works on what is missing any more, or Redis cannot say.
        """
        found: dict[bytes, bytes] = {}
        missing = list(keys)
        left_s = self._longest_wait_s if model_s is None else min(self._longest_wait_s, model_s)
        while True:
            arrived = self._cache.get(missing)
            found |= arrived.memory | arrived.redis
            missing = [key for key in missing if key not in found]
            if left_s <= 0 or not missing:
                return found
            holders = self._link.mget(self._names(missing))
            missing = [key for key, holder in zip(missing, holders, strict=True) if holder is not None]
            if not missing:
                return found
            step_s = min(_STEP_S, left_s)
            self._sleep(step_s)
            left_s -= step_s

    def _names(self, keys: Sequence[bytes]) -> list[bytes]:
        return [name + b":claim" for name in self._cache.in_redis(keys)]
