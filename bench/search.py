"""`make bench-search`: what a search costs at the gateway over HTTP, by text and by vector, alone and beside ingest."""

from __future__ import annotations

import http.client
import itertools
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
import orjson

from app.local.console import Console
from app.local.corpus import Docstring
from app.local.process import until_stopped
from bench.bare import encode
from bench.client import SearchClient, by_text, by_vector, wait_applied
from bench.floor import floor, stored_vectors
from bench.load import Load
from bench.meters import CpuMeter, quantiles
from bench.publish import publish, upsert
from bench.report import Report, Table, redis_version
from bench.stack import Roles, Stack, check_installed
from bench.texts import Reader
from producers.publisher import DocumentPublisher
from schemas.errors import HeadraceError

_CLIENTS = (1, 4)
_LONGEST_S = 7.0  # of one cell of the table
_KNOWN_QUERIES = 100
_WITHIN_S = 600
_INGEST_SHARE = 0.5
_SWITCH_INTERVAL_S = 0.0005


@click.command()
@click.option("--documents", default=5000, show_default=True, type=click.IntRange(min=50), help="In the index.")
@click.option("--requests", default=400, show_default=True, type=click.IntRange(min=10), help="Of each client.")
@click.option("--name", default="search", show_default=True, help="Of the files in bench/results.")
def search(documents: int, requests: int, name: str) -> None:
    """Measure searches on a Kafka and a Redis of their own."""
    check_installed()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    console = Console()
    report = Report(name, "Latency of a search at the gateway", "make bench-search", sys.argv[1:])
    try:
        with until_stopped(), ExitStack() as exits:
            SearchRun(exits.enter_context(Stack(console)), console, report).run(documents, requests)
            exits.close()
            console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


@dataclass(slots=True)
class Taken:
    """took_ms: of each good answer, as the client sees it; server_ms: as the answer tells it. failed: others."""

    took_ms: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)
    failed: int = 0


class SearchRun:
    """One run; results go into the report."""

    def __init__(self, stack: Stack, console: Console, report: Report) -> None:
        self._stack = stack
        self._console = console
        self._report = report
        self._cells: list[dict[str, Any]] = []
        report.redis = redis_version(stack.redis_program)

    def run(self, documents: int, requests: int) -> None:
        """Fill the index, then every kind of query with every number of clients, without and with ingest."""
        reader = Reader()
        indexed = reader.documents(documents)
        distinct = 2 * requests * sum(_CLIENTS)
        sentences = reader.sentences(distinct + _KNOWN_QUERIES)
        known, fresh = sentences[:_KNOWN_QUERIES], itertools.cycle(sentences[_KNOWN_QUERIES:])
        self._console.step(f"{len(indexed):,} documents, {len(sentences):,} sentences to ask")
        vectors = encode("auto", {"queries": known}, self._stack.folder).vectors["queries"]
        bodies: dict[str, Iterator[bytes]] = {
            "text": map(by_text, fresh),
            "text, cached": itertools.cycle([by_text(sentence) for sentence in known]),
            "hybrid, cached": itertools.cycle([by_text(sentence, mode="hybrid") for sentence in known]),
            "keyword": itertools.cycle([by_text(sentence, mode="keyword") for sentence in known]),
            "vector": itertools.cycle([by_vector(vector.tolist()) for vector in vectors]),
        }
        with self._stack.roles() as roles:
            rate = self._fill(roles, indexed)
            self._report.sizes = _sizes(roles, len(indexed), sentences)
            self._measure(roles, bodies, requests, "nothing")
            load = Load(roles.environment, rate * _INGEST_SHARE, _pairs(indexed), 1, self._stack.folder)
            with load:
                time.sleep(2)
                self._measure(roles, bodies, requests, f"{rate * _INGEST_SHARE:.0f} changes/s")
            sizes = _sizes(roles, len(indexed), sentences)
        self._conclude(
            floor(stored_vectors(self._stack.settings.data_dir), np.repeat(vectors, 5, axis=0), roles.settings)
        )
        self._report.figures |= {"filled_per_second": rate, "load": load.sent, "sizes_at_the_end": sizes}
        self._report.notes += _notes(self._report.sizes, sizes, load.sent, len(sentences) - _KNOWN_QUERIES < distinct)

    def _fill(self, roles: Roles, indexed: Sequence[Docstring]) -> float:
        """Returns documents per second."""
        self._console.step(f"filling the index with {len(indexed):,} documents")

        def say() -> None:
            roles.check()
            self._console.step(f"  … {sum(shard['documents'] for shard in roles.shards()):,} documents")

        with DocumentPublisher(roles.settings, linger_ms=5) as publisher:
            publisher.connect()
            published = publish(publisher, [upsert(item.id, item.text, item.title) for item in indexed])
        applied = wait_applied(roles.gateway, published.offsets, _WITHIN_S, roles.check, say)
        rate = len(indexed) / (applied - published.began)
        self._console.step(f"  {rate:.0f} documents/s")
        time.sleep(2)
        return rate

    def _measure(self, roles: Roles, bodies: dict[str, Iterator[bytes]], requests: int, beside: str) -> None:
        for kind, endless in bodies.items():
            for clients in _CLIENTS:
                shares = [list(itertools.islice(endless, requests)) for _ in range(clients)]
                if kind != "text":
                    _ask_all(roles.gateway, [shares[0][:_KNOWN_QUERIES]])
                meter = CpuMeter({**self._stack.pids(), **roles.children.pids()})
                began = time.monotonic()
                taken = _ask_all(roles.gateway, shares)
                seconds = time.monotonic() - began
                self._cells.append(
                    {
                        "beside": beside,
                        "kind": kind,
                        "clients": clients,
                        "took_ms": quantiles(taken.took_ms),
                        "server_ms": quantiles(taken.server_ms),
                        "failed": taken.failed,
                        "per_second": len(taken.took_ms) / seconds,
                        "cores": meter.cores(),
                    }
                )
                p50, p99 = (self._cells[-1]["took_ms"][key] for key in ("p50", "p99"))
                self._console.step(f"  by {kind}, {clients} clients, beside {beside}: p50 {p50:.1f}, p99 {p99:.1f} ms")
        roles.check()

    def _conclude(self, bare: dict[str, Any]) -> None:
        self._report.figures |= {"cells": self._cells, "floor_ms": bare}
        self._report.tables.append(_latencies(self._cells, bare))


def _ask_all(gateway: str, shares: Sequence[Sequence[bytes]]) -> Taken:
    """Each share by a client of its own, one request after another, for at most _LONGEST_S."""
    taken = Taken()
    deadline = time.monotonic() + _LONGEST_S
    threads = [threading.Thread(target=_ask, args=(gateway, share, deadline, taken)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _ask(gateway: str, bodies: Sequence[bytes], deadline: float, taken: Taken) -> None:
    client = SearchClient(gateway)
    for body in bodies:
        if time.monotonic() > deadline:
            break
        began = time.perf_counter()
        try:
            status, content = client.post(body)
        except (OSError, http.client.HTTPException):
            taken.failed += 1
            client.close()
            continue
        took_ms = (time.perf_counter() - began) * 1000
        answer = orjson.loads(content) if status == 200 else None
        if answer is None or answer["partial"] or not answer["hits"]:
            taken.failed += 1
            continue
        taken.took_ms.append(took_ms)
        taken.server_ms.append(answer["took_ms"])
    client.close()


def _pairs(indexed: Sequence[Docstring]) -> list[tuple[str, str]]:
    return [(item.id, item.text) for item in indexed]


def _sizes(roles: Roles, documents: int, sentences: Sequence[str]) -> dict[str, Any]:
    shards = roles.shards()
    return {
        "documents": documents,
        "shards": len(shards),
        "chunks": sum(shard["chunks"] for shard in shards),
        "buffered_chunks": sum(shard["buffered"] for shard in shards),
        "query_characters_mean": float(np.mean([len(sentence) for sentence in sentences])),
    }


def _latencies(cells: Sequence[dict[str, Any]], bare: dict[str, Any]) -> Table:
    keys = ("p50", "p95", "p99")
    rows: list[list[object]] = []
    for cell in cells:
        cores = " ".join(f"{name} {used:.2f}" for name, used in cell["cores"].items() if name in ("search", "index"))
        latencies = [cell["took_ms"][key] for key in keys]
        what = [cell["kind"], cell["clients"], cell["beside"]]
        rows.append([*what, *latencies, cell["server_ms"]["p50"], cell["per_second"], cell["failed"], cores])
    for name, spread in bare.items():
        rows.append([f"floor: {name}", 1, "nothing", *(spread[key] for key in keys), "", 1000 / spread["p50"], 0, ""])
    columns = ("by", "clients", "beside", *keys, "p50 in the gateway", "per second", "failed or partial", "cores")
    return Table("POST /search, k = 10, ms", columns, rows)


def _notes(sizes: dict[str, Any], after: dict[str, Any], load: dict[str, Any], again: bool) -> list[str]:
    index = (
        f"Index: {sizes['documents']:,} docstrings with titles, {sizes['chunks']:,} chunks, {sizes['shards']} shards. "
        f"{sizes['buffered_chunks']:,} of them were in write buffers and so scanned exactly, "
        f"{after['buffered_chunks']:,} (with those that had been replaced) at the end."
    )
    asked = (
        "`text`: distinct sentences of documents that are not in the index, "
        f"{sizes['query_characters_mean']:.0f} characters in the mean, each costs a model call"
        + (" (**there were not enough: some came again**)" if again else "")
        + f"; the others: {_KNOWN_QUERIES} sentences again and again. `text` is by meaning alone."
    )
    ingest = f"{load['per_second']:.0f} changes/s of documents that are indexed, half of the rate of filling the index"
    return [
        index,
        asked,
        f"Ingest: {ingest}.",
        f"Each client sends one request after another on one connection, for {_LONGEST_S:.0f} s at most; one process.",
        "Floor: all vectors of the shards in one hnswlib index with the product's parameters; one thread, no rows.",
    ]


if __name__ == "__main__":
    search()
