"""`headrace publish`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.options import setting_flags
from app.observe.tracing import Tracing
from app.settings import Settings, load_settings
from producers.changes import Fields
from producers.display import Display
from producers.files import FileReader
from producers.inputs import FORMATS, STDIN, Reading, plan_inputs, read_inputs
from producers.publisher import DocumentPublisher
from producers.pump import pump
from producers.tally import summary_text
from producers.watch import check_watch, watch_folder
from schemas.errors import BrokerUnavailable, Fatal, ServiceMissing

_LINGER_MS = 5  # bulk: fuller requests; nobody notices 5 ms of a file
_CONNECT_S = 5.0


@click.command(short_help="Publish documents from files, folders, tables or stdin.")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--format", "file_format", type=click.Choice(FORMATS), help="Of all inputs; default: by extension.")
@click.option("--id-field", metavar="NAME", help="Field or column of the id (default: id).")
@click.option("--text-field", metavar="NAME", help="… of the text (default: text).")
@click.option("--title-field", metavar="NAME", help="… of the title (default: title, if there is one).")
@click.option("--op-field", metavar="NAME", help="… that says upsert or delete; empty means upsert.")
@click.option("--version-field", metavar="NAME", help="… of the version, a growing integer.")
@click.option("--event-time-field", metavar="NAME", help="… of the event time, RFC 3339 or ms since the epoch.")
@click.option(
    "--metadata-field", metavar="NAME", multiple=True, help="Only this as metadata; repeatable. Default: all."
)
@click.option("--number-field", metavar="NAME", multiple=True, help="A CSV column of numbers; repeatable.")
@click.option("--delimiter", metavar="CHARACTER", help="Of CSV (default: comma, in .tsv a tab).")
@click.option("--id-prefix", default="", metavar="TEXT", help="Put before the ids of files, which are their paths.")
@click.option("--delete", is_flag=True, help="Delete the documents that are named: lines are ids, or documents.")
@click.option("--watch", is_flag=True, help="Publish a folder, then go on with every change in it, until Ctrl-C.")
@click.option("--strict", is_flag=True, help="Stop at the first bad input or failed delivery.")
@click.option("--quiet", is_flag=True, help="No progress; errors and the summary stay.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=120, show_default=True,
              metavar="SECONDS", help="A change not confirmed by then has failed.")  # fmt: skip
@setting_flags("brokers", "collection")
def publish(paths: tuple[str, ...], **options: Any) -> None:
    """Publish document changes from JSON Lines, CSV, Parquet, a folder of text, Markdown and HTML, or stdin.

    Without PATH, or for -, JSON Lines are read from stdin: {"id": "a", "text": "…"} or {"op": "delete", "id": "a"}.
    Bad input is named and skipped. Exit status: 0 all published, 1 not all, 2 wrong usage, 130 Ctrl-C.
    """
    settings = load_settings(brokers=options["brokers"], collection=options["collection"])
    reading = _reading(options)
    paths = _checked(paths, reading, watch=options["watch"])
    inputs = [] if options["watch"] else plan_inputs(paths, reading)
    total_bytes = sum(source.size_bytes for source in inputs)
    status = 0
    tracing = Tracing(settings, "publish")
    try:
        with (
            _connected(settings, tracing, options["timeout_s"]) as publisher,
            Display(total_bytes=total_bytes, quiet=options["quiet"]) as display,
        ):
            items = (
                watch_folder(Path(paths[0]), FileReader(reading.id_prefix))
                if options["watch"]
                else read_inputs(inputs, display.advance)
            )
            status = pump(items, publisher, display, strict=options["strict"], wait_s=options["timeout_s"] + 5)
            if status > 1:
                publisher.close(0)  # it was waited for already
    finally:
        tracing.close()
    summary = display.tally.summary(publisher.topic)
    click.echo(orjson.dumps(summary) if options["as_json"] else summary_text(summary))
    sys.exit(status)


def _reading(options: dict[str, Any]) -> Reading:
    named = {
        name: options[f"{name}_field"]
        for name in ("id", "text", "title", "op", "version", "event_time")
        if options[f"{name}_field"] is not None
    }
    metadata, numbers, delimiter = options["metadata_field"], options["number_field"], options["delimiter"]
    if delimiter is not None and len(delimiter) != 1:
        raise click.UsageError("--delimiter is one character")
    return Reading(
        fields=Fields(**named, metadata=metadata or None, numbers=frozenset(numbers), delete=options["delete"]),
        mapped=bool(named or metadata),
        format=options["file_format"],
        delimiter=delimiter,
        id_prefix=options["id_prefix"],
    )


def _checked(paths: tuple[str, ...], reading: Reading, *, watch: bool) -> tuple[str, ...]:
    if watch:
        if len(paths) != 1 or reading.fields.delete or reading.format not in (None, "files"):
            raise click.UsageError("--watch takes one folder, and neither --delete nor another --format than files")
        if not Path(paths[0]).is_dir():
            raise Fatal(f"{paths[0]} is not a folder: --watch takes one")
        check_watch()
        return paths
    if paths.count(STDIN) > 1:
        raise click.UsageError("stdin (-) can be read only once")
    if not paths and sys.stdin.isatty():
        raise click.UsageError("nothing to publish: name a file or folder, or pipe JSON Lines in")
    return paths or (STDIN,)


def _connected(settings: Settings, tracing: Tracing, timeout_s: float) -> DocumentPublisher:
    publisher = DocumentPublisher(
        settings, tracing=tracing, linger_ms=_LINGER_MS, delivery_timeout_ms=round(timeout_s * 1000)
    )
    try:
        publisher.connect(_CONNECT_S)
    except BrokerUnavailable as error:
        publisher.close(0)
        raise ServiceMissing(
            f"no Kafka at {settings.brokers} (HEADRACE_BROKERS): {error}. Start one, or `headrace up`."
        ) from error
    except Fatal:
        publisher.close(0)
        raise
    return publisher
