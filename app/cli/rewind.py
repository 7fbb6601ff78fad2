"""`headrace rewind`: have the embed workers read events again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from app.cli.moments import METAVAR, moment
from app.cli.options import setting_flags
from app.cli.progress import progress
from app.embed.rewind import Step, count_keys, earlier, forget_applied, plan_rewind
from app.kafka.offsets import GroupOffsets
from app.kafka.reading import Span, TopicReader
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings, load_settings
from schemas.errors import GroupActive

_PLACE = re.compile(r"(\d+):(\d+)")
_INDEX = (
    "an index worker does not go by the offsets of its group: the file of each shard holds its place, with the rows. "
    "To have a shard read its whole topic again, stop its index worker, remove {folder}/shard-<partition>.sqlite with "
    "its -wal and -shm, and start it; another replica answers meanwhile. To mend single documents: `headrace audit "
    "--repair`. Nothing was changed"
)


def _places(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[int, int] | None:  # noqa: ARG001
    if value is None:
        return None
    matches = [_PLACE.fullmatch(part.strip()) for part in value.split(",")]
    places = {int(match[1]): int(match[2]) for match in matches if match}
    if len(places) < len(matches):
        raise click.BadParameter(f"{value!r} is not P:O[,P:O…] with each partition once, 0:41,1:17 for example")
    return places


@click.command()
@click.option("--to-offset", callback=_places, metavar="P:O[,P:O…]", help="By partition, the first to be read again.")
@click.option("--to-time", callback=moment, metavar=METAVAR, help="What came then or later: RFC 3339, or 2h for ago.")
@click.option("--all", "all_", is_flag=True, help="Everything that the changes topic holds.")
@click.option("--index", is_flag=True, help="Only say how a shard of the index is made to read again.")
@click.option("--yes", is_flag=True, help="Do it; without this it is only said what would be done.")
@setting_flags("brokers", "collection", "redis_url")
def rewind(
    to_offset: dict[int, int] | None, to_time: int | None, all_: bool, index: bool, yes: bool, **flags: Any
) -> None:
    """Have the embed workers read events again: after a mended model, or for documents that an index lacks.

    A dry run unless --yes is given. Stop the embed workers first. What Redis remembers as applied in these partitions
    is forgotten; cached vectors stay, so what has not changed costs little. The index keeps what is newer.
    """
    settings = load_settings(**flags)
    if index:
        folder = settings.data_dir / settings.collection / f"replica-{settings.replica}"
        raise click.UsageError(_INDEX.format(folder=folder))
    if sum((to_offset is not None, to_time is not None, all_)) != 1:
        raise click.UsageError("give one of --to-offset, --to-time and --all")
    offsets = GroupOffsets.of(settings, settings.embed_group)
    with TopicReader(settings, "headrace-rewind") as reader:
        spans = reader.spans(settings.changes_topic)
        committed = offsets.committed(settings.changes_topic, spans)
        if to_offset is not None:
            starts = to_offset
        elif to_time is not None:
            starts = earlier(reader.offsets_at(settings.changes_topic, spans, to_time), committed, spans)
        else:
            starts = {partition: first for partition, (first, _) in spans.items()}
    steps = plan_rewind(starts, committed, spans)
    _show(settings, steps, committed, spans)
    if not steps:
        click.echo("nothing to rewind: the embed workers have read nothing after that")
    elif yes:
        _rewind(settings, offsets, steps)
    else:
        click.echo("nothing was changed: stop the embed workers, then give --yes to do it")


def _rewind(settings: Settings, offsets: GroupOffsets, steps: Sequence[Step]) -> None:
    """Forget before rewinding: cut off in between, what was forgotten only costs time."""
    link = RedisLink(settings)
    try:
        try:
            offsets.require_empty()
            forgotten = _forget(link, settings, steps)
            offsets.set(settings.changes_topic, {step.partition: step.start for step in steps})
        except GroupActive as error:
            told = Registry(link, settings.collection, "embed").told()
            raise GroupActive(error.group, list(told or ()) or error.members) from error
    finally:
        link.close()
    if forgotten is not None:
        click.echo(f"Redis forgot {forgotten:,} entries of what was applied")
    click.echo(f"rewound {offsets.group}: start the embed workers")


def _forget(link: RedisLink, settings: Settings, steps: Sequence[Step]) -> int | None:
    if link.state == "not configured":
        return None
    link.require()
    with progress("forgetting what was applied", count_keys(link)) as advance:
        return forget_applied(link, settings.collection, [step.partition for step in steps], advance)


def _show(settings: Settings, steps: Sequence[Step], committed: dict[int, int], spans: dict[int, Span]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("partition", "from", "to", "events again, at most"):
        table.add_column(column, justify="right")
    starts = {step.partition: step for step in steps}
    for partition in sorted(spans):
        reached, step = committed.get(partition), starts.get(partition)
        start = "stays" if step is None else str(step.start)
        table.add_row(
            str(partition),
            "nothing read" if reached is None else str(reached),
            start,
            f"{step.events if step else 0:,}",
        )
    click.echo(f"{settings.embed_group} on {settings.changes_topic}")
    Console(highlight=False).print(table)
    click.echo(f"{sum(step.events for step in steps):,} events at most would be read again")
