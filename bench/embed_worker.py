"""A process of a benchmark that waits to be asked: several models can be loaded and measured by turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import orjson

from app.local.process import stop, tied
from schemas.errors import HeadraceError, ServiceMissing

Facts = dict[str, Any]
Commands = Mapping[str, Callable[..., Facts]]

_WITHIN_S = 600
_STOP_WITHIN_S = 2


class Worker:
    """The side that asks. Use it as a context manager.

    facts: what the process says of itself once it is ready. Raises ServiceMissing, here and in `ask`, when the
    process ends or says nothing for ten minutes: what is wrong is on stderr. environment: on top of this one's.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._name = " ".join((module, *arguments[:1]))
        self._process = subprocess.Popen(
            tied([sys.executable, "-m", module, *arguments], signal.SIGKILL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            process_group=0,  # Ctrl-C is for the parent, which ends this
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, **arguments: Any) -> Facts:
        """Have it do something, and wait until it is done."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(orjson.dumps({"do": command, **arguments}) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ServiceMissing(f"{self._name} has ended; the lines above may say why") from error
        return self._answer()

    def close(self) -> None:
        """End the process."""
        stop(self._process, _STOP_WITHIN_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what it was asked last did not reach it

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> Facts:
        assert self._process.stdout is not None
        guard = threading.Timer(_WITHIN_S, self._process.kill)
        guard.start()
        try:
            line = self._process.stdout.readline()
        finally:
            guard.cancel()
        if not line.endswith(b"\n"):
            raise ServiceMissing(f"{self._name} gave no answer; the lines above may say why")
        facts: Facts = orjson.loads(line)
        return facts


def serve(make: Callable[[], tuple[Facts, Commands]]) -> None:
    """The side that is asked: builds its parts, tells its facts, then does one command after another.

    Whatever libraries print goes to stderr: stdout is for the answers. Ends when nobody can ask any more.
    """
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        try:
            facts, commands = make()
            _tell(answers, facts)
            for line in sys.stdin.buffer:
                asked = orjson.loads(line)
                _tell(answers, commands[asked.pop("do")](**asked))
        except HeadraceError as error:
            sys.exit(f"bench: {error}")


def _tell(answers: Any, facts: Facts) -> None:
    answers.write(orjson.dumps(facts) + b"\n")
    answers.flush()
