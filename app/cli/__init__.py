"""The `headrace` command. Each subcommand lives in its own layer and is imported only when it is run."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_ROLES = ("embed", "index", "serve", "up", "demo")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the command, see `app.cli.main`.

    A role that is told to end while it still imports and loads ends at once with status 0: it holds nothing yet.
    What it does about signals afterwards it sets itself, once it has something to settle.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] and given[0] in _ROLES:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
    try:
        from app.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run(arguments)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(0)  # an exception may be swallowed by whatever is being imported
