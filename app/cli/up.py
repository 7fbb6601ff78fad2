"""`headrace up`: the three roles on this machine against real Kafka and Redis."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from app.cli.options import setting_flags
from app.local.children import Children
from app.local.console import Console
from app.local.process import until_stopped
from app.local.roles import environment_of, gateway_url, roles, with_ports
from app.local.services import kafka_for, redis_for
from app.local.session import watch
from app.settings import load_settings, setting_rows

READY_WITHIN_S = 300
FOLDER = Path(".headrace")


@click.command()
@setting_flags("brokers", "redis_url", "collection", "port", "data_dir", "log_level")
def up(**flags: Any) -> None:
    """Run embed, index and search here, supervised, against real Kafka and Redis.

    Those that the settings name are used. Where a setting is at its default and nothing answers there, Kafka or
    Redis is started on this machine, with its data in .headrace/ (Kafka needs java and mvn, and is fetched once).
    Topics are created in a Kafka that was started here; in another one they are only checked.

    Ctrl-C stops the roles and what was started with them; the data stays.
    """
    settings = with_ports(load_settings(**flags))
    given = {row.name for row in setting_rows(settings, flags) if row.source != "default"}
    console = Console()
    with until_stopped(), ExitStack() as stack:
        brokers = kafka_for(settings, given, FOLDER, stack, console)
        redis_url = redis_for(settings, given, FOLDER, stack, console)
        own = {name: value for name, value in flags.items() if value is not None}
        environment = environment_of({**own, "brokers": brokers, "redis_url": redis_url})

        children = stack.enter_context(Children(FOLDER / "logs", console))
        for role in roles(settings, environment):
            children.start(role)
        console.step("started embed, index and search")
        stack.callback(console.step, "stopping")
        children.wait_ready(READY_WITHIN_S)
        console.step(f"ready: {gateway_url(settings)}/ (logs in {FOLDER / 'logs'}; Ctrl-C stops)")
        watch(children, console, gateway_url(settings))
    console.step("stopped")
