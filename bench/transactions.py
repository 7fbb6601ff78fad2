"""`make bench-transactions`: what fencing by Kafka would cost: a transaction a batch against confirmed records."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from app.local.console import Console
from app.local.kafka import LocalKafka, prepare
from app.local.process import until_stopped
from bench.meters import quantiles
from bench.report import Report, Table
from schemas.errors import HeadraceError

_TOPIC = "bench"
_DELIVERY_S = 30.0
_VALUE = bytes(2000)  # a document of one chunk


@click.command()
@click.option("--batches", default=300, show_default=True, type=click.IntRange(10), help="Of each kind and size.")
@click.option("--name", default="transactions", show_default=True, help="Of the files in bench/results.")
def transactions(batches: int, name: str) -> None:
    """Time from a batch's first record to its last confirmation, or its commit. Needs Java."""
    console = Console(out=sys.stderr)
    report = Report(name, "A transaction a batch", "make bench-transactions", sys.argv[1:])
    try:
        home = prepare(console.step)
        with (
            until_stopped(),
            tempfile.TemporaryDirectory() as folder,
            LocalKafka(Path(folder) / "kafka", home=home) as kafka,
        ):
            _measure(kafka.address, batches, report, console)
        console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


def _measure(brokers: str, batches: int, report: Report, console: Console) -> None:
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_topics([NewTopic(_TOPIC, 4, 1)]).values():
        future.result(_DELIVERY_S)
    config = {"bootstrap.servers": brokers, "linger.ms": 0, "acks": "all"}
    confirmed = Producer(config | {"enable.idempotence": True})
    fenced = Producer(config | {"transactional.id": "bench-0"})
    fenced.init_transactions(_DELIVERY_S)
    rows = []
    for size in (1, 64):
        ways: dict[str, Callable[[], None]] = {
            "confirmed": lambda size=size: _send(confirmed, size),  # type: ignore[misc]
            "in a transaction": lambda size=size: _in_transaction(fenced, size),  # type: ignore[misc]
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        console.step(f"{batches} batches of {size} records in turns")
        for number in range(batches + 20):
            for way, send in ways.items():
                began = time.perf_counter()
                send()
                if number >= 20:  # warm by then
                    took[way].append((time.perf_counter() - began) * 1000)
        for way, values in took.items():
            found = quantiles(values)
            report.figures[f"{way}, {size} records, ms"] = found
            rows.append((way, size, found["p50"], found["p95"], found["p99"], found["max"]))
    report.tables.append(
        Table("One batch to one partition, ms", ("way", "records", "p50", "p95", "p99", "longest"), rows)
    )
    report.notes.append("One broker on this machine, linger 0, acks=all; both ways by turns, batch after batch.")


def _send(producer: Producer, size: int) -> None:
    for _ in range(size):
        producer.produce(_TOPIC, _VALUE, b"key", 0)
    if producer.flush(_DELIVERY_S):
        raise TimeoutError("Kafka did not confirm a batch")


def _in_transaction(producer: Producer, size: int) -> None:
    producer.begin_transaction()
    _send(producer, size)
    producer.commit_transaction(_DELIVERY_S)


if __name__ == "__main__":
    transactions()
