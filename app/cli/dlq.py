"""`headrace dlq list|show|export|replay`: the events that could not be indexed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.dlq_replay import REPLAY_CLIENT, replay_letters
from app.cli.moments import METAVAR, moment
from app.cli.options import setting_flags
from app.cli.progress import progress
from app.dlq.letters import Filters, Letter, LetterBox
from app.dlq.telling import exported, lines, printable, summary
from app.kafka.reading import TopicReader
from app.settings import load_settings
from schemas.document_change import utc
from schemas.errors import Fatal

F = TypeVar("F", bound=Callable[..., Any])

_CLIENT = "headrace-dlq"
_CONNECTION = ("brokers", "collection")
_PIPED_WIDTH = 200  # columns of the table where there is no terminal that has a width
_MESSAGE_SHOWN = 120


def _filters(command: F) -> F:
    limit = click.IntRange(min=1)
    for option in (
        click.option("--limit", type=limit, metavar="N", help="Only the first N of them."),
        click.option("--until", callback=moment, metavar=METAVAR, help="Set aside before: RFC 3339, or 2h for ago."),
        click.option("--since", callback=moment, metavar=METAVAR, help="Set aside then or later."),
        click.option("--partition", "partitions", type=int, multiple=True, help="Of the source topic; repeatable."),
        click.option("--id", "ids", multiple=True, metavar="ID", help="Of the document; repeatable."),
        click.option("--stage", "stages", multiple=True, help="Where it failed: decode, embed, index; repeatable."),
        click.option("--reason", "--class", "classes", multiple=True, metavar="CLASS",
                     help="Class of the error, InvalidChange for example; repeatable."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def dlq() -> None:
    """Look at dead letters, the events that could not be indexed, and replay them."""


@dlq.command("list")
@_filters
@click.option("--counts", is_flag=True, help="How many there are of each reason, in place of the letters.")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines, a letter each.")
@setting_flags(*_CONNECTION)
def list_(counts: bool, as_json: bool, **options: Any) -> None:
    """List dead letters, the oldest first; each source position once, though it may be there twice after a crash."""
    with _letters(options) as found:
        if counts:
            _show_counts(found, as_json=as_json)
        elif as_json:
            for letter in found:
                click.echo(orjson.dumps(summary(letter)))
        else:
            _show_table(found)


@dlq.command()
@click.argument("place", metavar="PARTITION:OFFSET")
@click.option("--full", is_flag=True, help="The whole value, however long.")
@click.option("--json", "as_json", is_flag=True, help="As `headrace dlq export` writes it.")
@setting_flags(*_CONNECTION)
def show(place: str, full: bool, as_json: bool, **flags: Any) -> None:
    """Show one dead letter whole: why, headers, key, value. PARTITION:OFFSET is what `headrace dlq list` prints."""
    partition, _, offset = place.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise click.UsageError(f"{place!r} is not PARTITION:OFFSET, 0:17 for example")
    settings = load_settings(**flags)
    with TopicReader(settings, _CLIENT) as reader:
        letter = LetterBox(reader, settings.dlq_topic).letter(int(partition), int(offset))
    if as_json:
        click.echo(orjson.dumps(exported(letter), option=orjson.OPT_INDENT_2))
        return
    for line in lines(letter, full=full):
        click.echo(line)


@dlq.command()
@_filters
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A new file; default: stdout.")
@setting_flags(*_CONNECTION)
def export(output: Path | None, **options: Any) -> None:
    """Write dead letters as JSON Lines, with key, value and headers as they came: to keep, or to mend and publish.

    Bytes that are not UTF-8 are in base64, in key_base64 and value_base64.
    """
    if output is not None and output.exists():
        raise Fatal(f"{output} exists: name a new file, as letters are not to be lost")
    with _letters(options) as found:
        if output is None:
            for letter in found:
                click.echo(orjson.dumps(exported(letter)))
            return
        part, count = output.with_name(output.name + ".part"), 0
        with part.open("wb") as file:
            for count, letter in enumerate(found, 1):  # noqa: B007 - it is told below
                file.write(orjson.dumps(exported(letter), option=orjson.OPT_APPEND_NEWLINE))
        part.rename(output)  # so that a file cut off by Ctrl-C is not taken for all of them
    click.echo(f"{count:,} letters in {output}", err=True)


@dlq.command()
@_filters
@click.option("--all", "all_", is_flag=True, help="All letters: say so, where no filter chooses.")
@click.option("--dry-run", is_flag=True, help="Only say what would become of each letter.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also those whose document has changed since: the OLD state will win.")
@click.option("--most", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
              help="An event that was replayed N times is refused.")  # fmt: skip
@setting_flags(*_CONNECTION)
def replay(all_: bool, dry_run: bool, yes: bool, force: bool, most: int, **options: Any) -> int:
    """Write dead letters to their source topic once more, as they came: after what made them fail has been mended.

    A letter is skipped when its document has changed since, or when it has been replayed already, so it may be run
    again at any time. Exit status: 0 all replayed or skipped, 1 some refused or failed, 130 Ctrl-C.
    """
    if _chosen(options).empty and not all_:
        raise click.UsageError(
            "choose letters by --reason, --stage, --id, --partition, --since, --until, or give --all"
        )
    if not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError("this writes to the source topic, and nobody is there to ask: give --yes or --dry-run")
    with _letters(options, REPLAY_CLIENT) as found:
        letters = list(found)
    settings = load_settings(**{name: options[name] for name in _CONNECTION})
    return replay_letters(settings, letters, most=most, force=force, dry_run=dry_run, yes=yes)


@contextmanager
def _letters(options: dict[str, Any], client: str = _CLIENT) -> Iterator[Iterator[Letter]]:
    """Those that the options mean; what was left out is told at the end."""
    settings = load_settings(**{name: options[name] for name in _CONNECTION})
    with TopicReader(settings, client) as reader:
        box = LetterBox(reader, settings.dlq_topic)
        spans = reader.spans(box.topic)
        with (
            progress("reading letters", sum(end - first for first, end in spans.values())) as advance,
            # closed before the reader is, also where the limit leaves some unread
            closing(box.letters(_chosen(options), spans, advance)) as found,
        ):
            yield islice(found, options["limit"])
    if box.repeated:
        click.echo(f"{box.repeated:,} letters are there twice and were left out", err=True)
    if box.foreign:
        click.echo(
            f"{box.foreign:,} records of {box.topic} are no dead letters of Headrace and were left out", err=True
        )


def _chosen(options: dict[str, Any]) -> Filters:
    lists = {name: options[name] for name in ("classes", "stages", "ids", "partitions")}
    return Filters(**lists, since_ms=options["since"], until_ms=options["until"])


def _show_counts(letters: Iterator[Letter], *, as_json: bool) -> None:
    counts = Counter((letter.why.error_class, letter.why.stage) for letter in letters).most_common()
    if as_json:
        for (error_class, stage), count in counts:
            click.echo(orjson.dumps({"class": error_class, "stage": stage, "count": count}))
        return
    table = _table("count", "class", "stage")
    for (error_class, stage), count in counts:
        table.add_row(f"{count:,}", Text(printable(error_class)), Text(printable(stage)))
    _print(table, len(counts))


def _show_table(letters: Iterator[Letter]) -> None:
    table = _table("letter", "set aside", "source", "stage", "class", "message", "key")
    count = 0
    for letter in letters:
        why, count = letter.why, count + 1
        source = f"{printable(why.topic)} {why.partition}:{why.offset}"
        message = why.message if len(why.message) <= _MESSAGE_SHOWN else why.message[:_MESSAGE_SHOWN] + "…"
        row = (letter.place, utc(why.timestamp_ms), source, why.stage, why.error_class, message, letter.id or "")
        table.add_row(*(Text(printable(text)) for text in row))
    _print(table, count)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        folds = column in ("message", "key")
        table.add_column(column, justify="right" if column == "count" else "left", no_wrap=not folds, overflow="fold")
    return table


def _print(table: Table, count: int) -> None:
    if not count:
        click.echo("no dead letters", err=True)
        return
    Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
