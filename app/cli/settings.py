"""`headrace settings`: every setting with its value, source, unit and meaning."""

from __future__ import annotations

import click
import orjson
from rich.console import Console
from rich.table import Table

from app.settings import load_settings, setting_rows


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def settings(as_json: bool) -> None:
    """Print every setting with its value, where that comes from, its unit and its meaning. Secrets are masked."""
    rows = setting_rows(load_settings(), {})
    if as_json:
        click.echo(orjson.dumps([row.model_dump() for row in rows], option=orjson.OPT_INDENT_2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("environment", "value", "source", "unit", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "environment")
    for row in rows:
        table.add_row(row.environment, row.value, row.source, row.unit, row.meaning)
    Console().print(table)
