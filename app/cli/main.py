"""The command group: names the subcommands, turns our errors into one line and an exit status."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from schemas.errors import HeadraceError

# name → (module, attribute). Loaded when run: `headrace publish` must not wait for Faust, nor `serve` for both.
COMMANDS = {
    "demo": ("app.cli.demo", "demo"),
    "up": ("app.cli.up", "up"),
    "publish": ("producers.commands", "publish"),
    "topics": ("app.cli.topics", "topics"),
    "embed": ("consumers.embed.command", "embed"),
    "index": ("consumers.index.command", "index"),
    "serve": ("app.cli.serve", "serve"),
    "search": ("app.cli.search", "search"),
    "receipt": ("app.cli.receipt", "receipt"),
    "status": ("app.cli.status", "status"),
    "top": ("app.cli.top", "top"),
    "dlq": ("app.cli.dlq", "dlq"),
    "rewind": ("app.cli.rewind", "rewind"),
    "audit": ("app.cli.audit", "audit"),
    "tune": ("app.cli.tune", "tune"),
    "model": ("app.cli.model", "model"),
    "bench": ("app.cli.bench", "bench"),
    "settings": ("app.cli.settings", "settings"),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="headrace")
def headrace() -> None:
    """A streaming real-time indexer on Kafka: document changes in, fresh semantic search out.

    Every setting can be given as HEADRACE_… in the environment or in .env; `headrace settings` lists them.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the command. Exit status: 0 done, 1 an error of ours (one line on stderr), 2 wrong usage."""
    try:
        status = headrace.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
