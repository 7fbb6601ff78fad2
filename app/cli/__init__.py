"""The `headrace` command. Each subcommand lives in its own layer and is imported only when it is run."""

from app.cli.main import main

__all__ = ["main"]
