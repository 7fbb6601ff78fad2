"""Writes docs/settings.md from the settings themselves: `python -m app.cli.settings_page > docs/settings.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from app.settings import PREFIX, Settings

_INTRODUCTION = """# Settings

Every setting of every role. A flag of a command wins over the environment, that over a `.env` file in the working
directory, and that over the default. Not every setting has a flag; a flag is named like its setting
(`HEADRACE_DATA_DIR`, `--data-dir`). `headrace settings` prints the values in effect and where each comes from, secrets
masked; `--json` for scripts.

An empty default means: not set. Made from `app/settings.py` by `python -m app.cli.settings_page > docs/settings.md`.
"""
# the first setting of each group, in the order of app/settings.py
_GROUPS = {
    "collection": "What is indexed, and where",
    "brokers": "Kafka",
    "redis_url": "Redis",
    "model": "Model",
    "batch_max_documents": "Embed worker",
    "replica": "Index worker",
    "host": "Search gateway",
    "freshness_objective_ms": "Freshness and traces",
    "log_level": "Logs",
}
_HEAD = "| environment | default | unit | accepted | meaning |\n|---|---|---|---|---|"


def settings_page() -> str:
    """The page: a table for each group of settings."""
    lines = [_INTRODUCTION.rstrip()]
    for name, field in Settings.model_fields.items():
        if name in _GROUPS:
            lines.append(f"\n## {_GROUPS[name]}\n\n{_HEAD}")
        lines.append(_row(name, field))
    return "\n".join(lines) + "\n"


def default_text(field: FieldInfo) -> str:
    """The default as one would write it in the environment; empty for none."""
    default: Any = field.default
    return "" if default is None or default == () else str(default)


def _row(name: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
    default = default_text(field)
    cells = (f"`{PREFIX}{name.upper()}`", f"`{default}`" if default else "", unit, _accepted(field), field.description)
    return "| " + " | ".join(_escaped(str(cell)) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Markdown takes <name> for HTML, and | for the end of a cell."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _accepted(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    return " ".join(_limits(field))


def _limits(field: FieldInfo) -> Iterator[str]:
    for sign, attribute in (("≥", "ge"), ("≤", "le")):
        for item in field.metadata:
            if (limit := getattr(item, attribute, None)) is not None:
                yield f"{sign} {limit}"


if __name__ == "__main__":
    click.echo(settings_page(), nl=False)
