"""`headrace topics create|describe`."""

from __future__ import annotations

from typing import Any

import click

from app.cli.options import setting_flags
from app.kafka.topics import TopicAdmin, collection_topics, problems, topic_plans
from app.settings import Settings, load_settings
from schemas.errors import BrokerUnavailable, ServiceMissing, TopicsWrong

_SHOWN = ("cleanup.policy", "delete.retention.ms", "retention.ms", "max.message.bytes", "min.insync.replicas")


@click.group()
def topics() -> None:
    """Create and inspect the topics of a collection."""


@topics.command()
@setting_flags("brokers", "collection", "partitions", "replication_factor", "tombstone_retention_hours")
def create(**flags: Any) -> None:
    """Create the changes, vectors and dead-letter topic; those that exist are left as they are, and checked."""
    settings = load_settings(**flags)
    admin = _admin(settings)
    try:
        created = admin.create(topic_plans(settings))
        for name in created:
            click.echo(f"created {name}")
        for plan in topic_plans(settings):
            if plan.name not in created:
                click.echo(f"exists  {plan.name}")
        collection_topics(settings, admin)
    except BrokerUnavailable as error:
        raise _missing(settings, error) from error


@topics.command()
@setting_flags("brokers", "collection")
def describe(**flags: Any) -> None:
    """Show the topics of the collection and what is wrong with them; exit status 1 if something is."""
    settings = load_settings(**flags)
    plans = topic_plans(settings)
    admin = _admin(settings)
    try:
        states = admin.describe([plan.name for plan in plans])
    except BrokerUnavailable as error:
        raise _missing(settings, error) from error
    for state in states.values():
        click.echo(f"{state.name}  partitions={state.partitions} replicas={state.replication_factor} id={state.id}")
        for name in _SHOWN:
            if name in state.config:
                click.echo(f"    {name}={state.config[name]}")
    wrong = problems(plans, states)
    if not wrong:
        collection_topics(settings, admin)
        click.echo("all as they must be")
        return
    for problem in wrong:
        click.echo(f"wrong: {problem}")
    collection_topics(settings, admin)


def _admin(settings: Settings) -> TopicAdmin:
    if settings.embedded_broker_id is not None:
        raise TopicsWrong("the embedded broker of `headrace demo` makes its topics by itself and describes none")
    return TopicAdmin(settings)


def _missing(settings: Settings, error: Exception) -> ServiceMissing:
    return ServiceMissing(f"no Kafka at {settings.brokers} (HEADRACE_BROKERS): {error}. Start one, or `headrace up`.")
