"""Flags that override settings: one decorator, so that a flag and its setting never differ in name or meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from app.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def setting_flags(*names: str) -> Callable[[F], F]:
    """Add a `--flag` for each named setting; the command gets it as a keyword argument, None if not given."""

    def decorate(command: F) -> F:
        for name in reversed(names):
            field = Settings.model_fields[name]
            extra = field.json_schema_extra
            unit = extra.get("unit") if isinstance(extra, dict) else None
            text = f"{field.description}{f' [{unit}]' if unit else ''}  (HEADRACE_{name.upper()})"
            command = click.option("--" + name.replace("_", "-"), name, default=None, help=text, metavar="VALUE")(
                command
            )
        return command

    return decorate
