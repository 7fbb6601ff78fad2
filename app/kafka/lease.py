"""How long a member of a consumer group may be sure that its partitions are still its own."""

from __future__ import annotations

import time
from collections.abc import Callable


def clock_s() -> float:
    """Seconds on a clock that goes on while the process is stopped and, on Linux, while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class GroupLease:
    """Nobody else is given a member's partitions before its session has run out since its last heartbeat.

    Renewed by the thread that sends heartbeats, asked by any.
    """

    def __init__(self, session_s: float, clock: Callable[[], float] = clock_s) -> None:
        self._session_s = session_s
        self._clock = clock
        self._until_s = -1.0

    def begin(self) -> float:
        """The time before a heartbeat is sent: from then on the session counts, once the group has answered."""
        return self._clock()

    def renew(self, sent_s: float) -> None:
        """The group has answered what was sent then."""
        self._until_s = max(self._until_s, sent_s + self._session_s)

    @property
    def holds(self) -> bool:
        """Whether what is ours by the last news is ours still."""
        return self._clock() < self._until_s
