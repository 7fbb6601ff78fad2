"""`headrace audit`: are all documents of the topics in every replica's shards, as they should be, and nothing else?"""

from __future__ import annotations

import asyncio
from typing import Any

import click
import orjson
from rich.console import Console

from app.audit.audit import audit as run_audit
from app.cli.audit_display import AuditProgress, show
from app.cli.options import setting_flags
from app.settings import load_settings
from schemas.errors import HeadraceError


@click.command()
@setting_flags("brokers", "collection", "redis_url", "index_urls")
@click.option("--replica", "replicas", multiple=True, help="Only this replica; may be given again.  (default: all)")
@click.option(
    "--shard", "--partition", "partitions", type=click.IntRange(min=0), multiple=True,
    help="Only this shard; may be given again.  (default: all)",
)  # fmt: skip
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Documents shown of each kind and shard.",
)
@click.option("--repair", is_flag=True, help="Mend what is found, through the topics, and look again.")
@click.option(
    "--timeout", "timeout_s", type=click.IntRange(min=1), default=60, show_default=True, metavar="SECONDS",
    help="How long to wait for a shard that is behind or does not answer.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def audit(
    replicas: tuple[str, ...], partitions: tuple[int, ...], examples: int, repair: bool, timeout_s: int, as_json: bool,
    **flags: Any,
) -> int:  # fmt: skip
    """Compare the last state of every document in the topics with the shards of every replica, and with Redis.

    Works beside running workers: what is under way is no drift. Exit status: 0 clean (with --repair: now), 1 drift,
    2 something could not be audited.
    """
    settings = load_settings(**flags)
    try:
        with AuditProgress() as progress:
            report = asyncio.run(
                run_audit(
                    settings, replicas=replicas, partitions=partitions, timeout_s=timeout_s, repair=repair,
                    tell=progress.tell,
                )
            )  # fmt: skip
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        return 2
    if as_json:
        click.echo(orjson.dumps(report.fields(examples), option=orjson.OPT_INDENT_2))
    else:
        show(Console(highlight=False), report, examples)
    return report.status
