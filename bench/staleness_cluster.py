"""The roles of `make bench-staleness` as processes that it pauses, kills and starts again."""

from __future__ import annotations

import time
from types import TracebackType

from app.local.probe import missing_for
from app.local.role import Role
from app.local.roles import environment_of
from app.settings import Settings
from bench.stack import READY_WITHIN_S, STOP_WITHIN_S, Stack
from schemas.errors import ServiceMissing

SESSION_TIMEOUT_MS = 6000  # the default of 30 s would make the phase of a killed worker as long
NAMES = {"embed": "embed", "second": "embed", "index": "index", "search": "search"}
_CRASH_AT = "crash_at"


class StalenessCluster:
    """All but the second embed worker run from the entry of a `with` to its end."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = stack.settings.model_copy(update={"session_timeout_ms": SESSION_TIMEOUT_MS})
        given = _changed(self.settings)
        self.environment = environment_of(given)
        logs = stack.folder / "logs"
        logs.mkdir(exist_ok=True)
        self._roles = {name: Role(name, kind, logs, given) for name, kind in NAMES.items()}
        self._roles["search"].settings["index_urls"] = self._roles["index"].url

    def __enter__(self) -> StalenessCluster:
        try:
            self.start("embed", "index", "search")
        except BaseException:
            self._kill_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_all()

    @property
    def gateway(self) -> str:
        """URL of the gateway."""
        return self._roles["search"].url

    def role(self, name: str) -> Role:
        """One of NAMES."""
        return self._roles[name]

    def start(self, *names: str) -> None:
        """Start roles and wait until they are ready. Raises ServiceMissing."""
        for name in names:
            self._roles[name].start()
        deadline = time.monotonic() + READY_WITHIN_S
        for name in names:
            while missing := missing_for(self._roles[name].url + "/readyz"):
                self.check(name)
                if time.monotonic() > deadline:
                    raise ServiceMissing(f"{name} is not ready: {missing}")
                time.sleep(0.05)

    def start_to_hang(self, name: str, word: str) -> None:
        """Start a worker which hangs in the model as soon as a text holds the word."""
        role = self._roles[name]
        role.settings[_CRASH_AT] = f"embed.in_model:1:HANG:{word}"
        try:
            self.start(name)
        finally:
            del role.settings[_CRASH_AT]

    def stop(self, name: str) -> None:
        """SIGTERM, as a deployment does it."""
        self._roles[name].terminate()
        self._roles[name].ended(STOP_WITHIN_S)

    def check(self, *names: str) -> None:
        """Raises ServiceMissing if one of them ended by itself."""
        for name in names:
            if (status := self._roles[name].status) is not None:
                words = self._roles[name].words()
                raise ServiceMissing(f"{name} ended with status {status}: {words.splitlines()[-1] if words else ''}")

    def _kill_all(self) -> None:
        for role in self._roles.values():
            role.kill()


def _changed(settings: Settings) -> dict[str, object]:
    """The settings that are not at their defaults: a role takes none from this process's environment."""
    defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    return {name: value for name, value in settings if value != defaults[name] and name != "index_urls"}
