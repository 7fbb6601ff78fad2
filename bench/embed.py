"""`make bench-embed`: embedding alone: the product's path, SentenceTransformer, bare OpenVINO, and what is possible.

Every competitor runs in a process of its own; all are loaded at the same time and asked by turns (`embed_worker`),
each round about texts that none of them has seen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from app.local.console import Console
from app.local.process import until_stopped
from app.local.redis import LocalRedis, find_redis_server
from app.model.folder import ModelFolder
from app.model.source import find_model
from app.model.tokens import ModelTokenizer
from app.settings import load_settings
from bench.embed_conclusions import conclude
from bench.embed_rounds import APART_S, Rounds
from bench.embed_starts import starts
from bench.embed_texts import KINDS, flops, sample
from bench.embed_worker import Facts, Worker
from bench.report import Report, redis_version
from schemas.errors import HeadraceError

_LOAD_WARM_S, _LOAD_S = 1.0, 5.0
_PASSES = 5


@click.command()
@click.option("--count", default=240, show_default=True, type=click.IntRange(20), help="Texts of a kind and round.")
@click.option(
    "--rounds", default=5, show_default=True, type=click.IntRange(1), help="All competitors by turns in each."
)
@click.option("--queries", default=300, show_default=True, type=click.IntRange(10), help="Of each kind of query.")
@click.option(
    "--singles", default=40, show_default=True, type=click.IntRange(5), help="Texts one at a time, of a kind."
)
@click.option("--starts", "starts_", default=5, show_default=True, type=click.IntRange(1), help="Of each role.")
@click.option("--chunks", default=10_000, show_default=True, type=click.IntRange(100), help="Whose vectors are known.")
@click.option("--variants", is_flag=True, help="Queries also beside bulk work that is nice, or has one thread.")
@click.option("--name", default="embed", show_default=True, help="Of the files in bench/results.")
def embed(
    count: int, rounds: int, queries: int, singles: int, starts_: int, chunks: int, variants: bool, name: str
) -> None:
    """Measure how texts become vectors on this machine. Needs torch and sentence-transformers."""
    console = Console(out=sys.stderr)
    report = Report(name, "Embedding", "make bench-embed", sys.argv[1:])
    try:
        with until_stopped(), ExitStack() as exits:
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
            run = EmbedRun(console, report, folder)
            run.read_texts(rounds, count, queries)
            run.limit()
            run.bulk(rounds, min(singles, count // 2))
            run.starts(starts_)
            run.queries(queries, variants=variants)
            run.cached(chunks)
            exits.close()
            conclude(report)
            console.say(report.write().read_text(encoding="utf-8"))
    except HeadraceError as error:
        sys.exit(f"bench: {error}")


@dataclass
class EmbedRun:
    """One run; what is measured goes into the report's figures, from which `conclude` makes the rest."""

    console: Console
    report: Report
    folder: Path
    texts: Path = field(init=False)

    def read_texts(self, rounds: int, count: int, queries: int) -> None:
        """English by length, into a file for everybody."""
        settings = load_settings()
        model = ModelFolder(find_model(settings.model), settings.model)
        tokenizer = ModelTokenizer(model)
        self.console.step("reading texts")
        found = sample(rounds, count, queries, tokenizer)
        self.texts = found.write(self.folder / "texts.json")
        self.report.sizes = found.describe(tokenizer)
        self._keep("flops_per_text", {kind: flops(self.report.sizes[kind], model.config) for kind in KINDS})
        self._keep("rounds", rounds)

    def limit(self) -> None:
        """Matrix products."""
        self.console.step("matrix products")
        with Worker("bench.embed_limit") as worker:
            self._keep("gemm", {"threads": worker.facts["threads"], "flops_per_s": worker.ask("gemm")})

    def bulk(self, rounds: int, singles: int) -> None:
        """Many texts at a time, and single ones."""
        self.report.figures |= Rounds(self.console, self.folder, self.texts, self.report.sizes).measure(rounds, singles)

    def starts(self, count: int) -> None:
        """From the start of a process to the first vector."""
        self._keep("starts", starts(count, self.console.step))

    def queries(self, count: int, *, variants: bool) -> None:
        """Query vectors alone, and while the embed worker's model has all it can do."""
        self.console.step("query vectors")
        with self._queries() as queries, self._bulk() as bulk:
            found = {
                "back to back": queries.ask("ask", count=count, apart_s=0.0),
                "apart": queries.ask("ask", count=count, apart_s=APART_S),
                "beside bulk": self._beside(queries, bulk, count),
            }
            if variants:
                bulk.ask("nice", by=10)
                found["beside bulk at nice 10"] = self._beside(queries, bulk, count)
        if variants:
            one = {"HEADRACE_MODEL_THREADS": "1"}
            with self._queries() as queries, self._bulk(one) as bulk:
                found["beside bulk with one thread"] = self._beside(queries, bulk, count)
            with self._queries(one) as queries, self._bulk() as bulk:
                found["with one thread, beside bulk"] = self._beside(queries, bulk, count)
        self._keep("queries", found)

    def _beside(self, queries: Worker, bulk: Worker, count: int) -> Facts:
        """Queries while bulk work goes on; how fast that is alone (before and after), and meanwhile."""
        before = _load(bulk, lambda: time.sleep(_LOAD_S))
        asked: Facts = {}
        beside = _load(bulk, lambda: asked.update(queries.ask("ask", count=count, apart_s=APART_S)))
        after = _load(bulk, lambda: time.sleep(_LOAD_S))
        self.console.step(f"  beside bulk: p50 {asked['p50']:.1f} ms, p99 {asked['p99']:.1f} ms")
        return asked | {
            "bulk_alone_per_s": [before["texts_per_s"], after["texts_per_s"]],
            "bulk_per_s": beside["texts_per_s"],
            "bulk_call_ms": beside["call_ms"],
        }

    def cached(self, chunks: int) -> None:
        """Documents that are known."""
        self.console.step("known documents")
        program = find_redis_server("system")
        with ExitStack() as exits:
            url = ""
            if program is not None:
                url = exits.enter_context(LocalRedis(program=program)).url
                self.report.redis = redis_version(program)
            worker = exits.enter_context(Worker("bench.embed_cached", str(chunks), url))
            found = {"facts": worker.facts}
            for source in ("memory", "redis") if url else ("memory",):
                told = worker.ask(source, passes=_PASSES)
                if told["only_known"]:
                    found[source] = told
                else:
                    self.report.notes.append(f"Not all of the documents were known, so left out: {told['counted']}.")
        if not url:
            self.report.notes.append("There is no Redis server on this machine: known documents in Redis are left out.")
        self._keep("cached", found)

    def _bulk(self, environment: dict[str, str] | None = None) -> Worker:
        return Worker("bench.embed_runtimes", "ours", str(self.texts), environment=environment)

    def _queries(self, environment: dict[str, str] | None = None) -> Worker:
        return Worker("bench.embed_queries", str(self.texts), environment=environment)

    def _keep(self, name: str, found: Any) -> None:
        self.report.figures[name] = found


def _load(bulk: Worker, meanwhile: Callable[[], object]) -> Facts:
    """What bulk work tells of the time in which something else happens."""
    bulk.ask("start")
    time.sleep(_LOAD_WARM_S)
    bulk.ask("stop")
    bulk.ask("start")
    meanwhile()
    return bulk.ask("stop")


if __name__ == "__main__":
    embed()
