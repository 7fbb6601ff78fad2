"""`make bench-history`: what caches and chunks save when documentation is edited, on a history that really happened.

Every revision's changed documents are embedded in three ways: all their chunks (LangChain's recursive splitter, no
cache), those of the same chunks whose text is new (the splitter with a cache), and as Headrace's embed worker does.
The first revision is taken as embedded: it costs the same in all ways.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import click
import numpy as np
from numpy.typing import NDArray

from app.embed.cache import Caches, TextCache
from app.embed.chunks import ChunkEmbedder
from app.embed.claims import Claims
from app.embed.coalesce import content_hash
from app.embed.economics import Economics
from app.embed.events import Work
from app.event import Event
from app.local.console import Console
from app.model.chunker import Chunker
from app.model.embedder import Embedder, unit_rows
from app.model.load import load_embedder
from app.model.tokens import ModelTokenizer
from app.observe.metrics import EmbedMetrics
from app.redis_link import RedisLink
from app.settings import Settings, load_settings
from bench.history_sources import Revision, git_history, release_history
from bench.report import Report, Table
from bench.splitters import ways_of
from schemas.document_change import DocumentChange
from schemas.errors import HeadraceError, ServiceMissing

VERSIONS = "5.0,5.0.1,5.0.2,5.0.3,5.0.4,5.1,5.1.1,5.1.2"
_MEMORY_BYTES = 2**30
_TRACEPARENT = "00-00000000000000000000000000000001-0000000000000001-00"

Texts = dict[str, str]


class CountingEmbedder:
    """Embedder that hands over to another one, and counts; while `known` it gives vectors of no meaning at no cost."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name, self.dim, self.max_tokens = embedder.name, embedder.dim, embedder.max_tokens
        self.batch_bytes, self.fingerprint, self.runtime = embedder.batch_bytes, embedder.fingerprint, embedder.runtime
        self.tokenizer = embedder.tokenizer
        self.known = True
        self.calls = self.texts = 0
        self.seconds = 0.0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See Embedder."""
        if self.known or not texts:
            return unit_rows(np.ones((len(texts), self.dim), np.float32))
        began = time.perf_counter()
        vectors = self._embedder.embed(texts)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        self.texts += len(texts)
        return vectors


class Way(Protocol):
    """One way to keep vectors up to date."""

    model: CountingEmbedder

    def embed(self, documents: Texts) -> int:
        """Bring the vectors of changed documents up to date; returns how many chunks they have."""
        ...


@dataclass
class Splitter:
    """The recursive splitter. cache: whether a chunk whose text was embedded before is spared."""

    model: CountingEmbedder
    split: object
    cache: bool
    seen: set[str] = field(default_factory=set)

    def embed(self, documents: Texts) -> int:
        """See Way."""
        chunks = [chunk for text in documents.values() for chunk in self.split(text)]  # type: ignore[operator]
        wanted = [text for text in dict.fromkeys(chunks) if text not in self.seen] if self.cache else chunks
        self.model.embed(wanted)
        if self.cache:
            self.seen.update(wanted)
        return len(chunks)


class Headrace:
    """The embed worker's own parts, with its caches in memory."""

    def __init__(self, model: CountingEmbedder, settings: Settings) -> None:
        self.model = model
        link = RedisLink(settings.model_copy(update={"redis_url": None}))
        vectors, cuts = (TextCache(link, name, name, _MEMORY_BYTES, 1) for name in ("vector", "cut"))
        self._chunks = ChunkEmbedder(
            model,
            Chunker(model.tokenizer, settings.max_chunk_tokens),
            Caches(link, vectors, cuts),
            Claims(link, vectors, lambda: True),
            Economics(EmbedMetrics()),
        )

    def embed(self, documents: Texts) -> int:
        """See Way."""
        found = self._chunks.embed([_work(at, path, text) for at, (path, text) in enumerate(documents.items())])
        return sum(len(result.chunks) for result in found.results if not isinstance(result, Exception))


def _work(offset: int, path: str, text: str) -> Work:
    change = DocumentChange(op="upsert", id=path, text=text, title=None, metadata={}, version=None, event_time=None)
    event = Event(0, offset, path.encode(), b"", (), 0, 0)
    return Work(event, change, content_hash(change), offset, _TRACEPARENT)


def changed(revisions: Iterator[Revision]) -> Iterator[tuple[str, Texts]]:
    """Name of each revision, and the documents that are new or not what they were."""
    before: Texts = {}
    for revision in revisions:
        yield revision.name, {path: text for path, text in revision.documents.items() if before.get(path) != text}
        before = revision.documents


def batches(documents: Texts, most_bytes: int) -> Iterator[Texts]:
    """As the worker takes them: so much text at a time, at least one document."""
    batch: Texts = {}
    room = most_bytes
    for path, text in documents.items():
        if batch and len(text) > room:
            yield batch
            batch, room = {}, most_bytes
        batch[path] = text
        room -= len(text)
    if batch:
        yield batch


def replay(revisions: Iterator[Revision], ways: dict[str, Way], console: Console) -> list[dict[str, object]]:
    """One row for each revision after the first."""
    rows: list[dict[str, object]] = []
    for at, (name, documents) in enumerate(changed(revisions)):
        row: dict[str, object] = {"revision": name, "documents": len(documents)}
        for title, way in ways.items():
            console.status(f"{name}: {len(documents)} documents, {title}")
            way.model.known = at == 0
            texts, calls, seconds = way.model.texts, way.model.calls, way.model.seconds
            chunks = sum(way.embed(batch) for batch in batches(documents, way.model.batch_bytes))
            row[title] = {
                "chunks": chunks,
                "embedded": way.model.texts - texts,
                "calls": way.model.calls - calls,
                "model_s": way.model.seconds - seconds,
            }
        console.step(f"{name}: {len(documents)} documents changed")
        if at:
            rows.append(row)
    return rows


@click.command()
@click.option("--package", default="django", show_default=True, help="Replay the docs/ of its releases.")
@click.option("--versions", default=VERSIONS, show_default=True, help="The releases, oldest first.")
@click.option("--repo", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A git repository instead.")
@click.option("--glob", "patterns", multiple=True, default=["*.md"], show_default=True, help="Its files.")
@click.option("--commits", default=50, show_default=True, type=click.IntRange(min=2), help="How many commits of it.")
@click.option("--name", default="history", show_default=True, help="Name of the report.")
def history(package: str, versions: str, repo: Path | None, patterns: tuple[str, ...], commits: int, name: str) -> None:
    """Replay the history of documentation and write bench/results/NAME.md."""
    report = Report(name, "What caches and chunks save on edited documentation", "make bench-history", sys.argv[1:])
    console = Console(sys.stderr, sys.stderr)
    settings = load_settings()
    embedder = load_embedder(settings)
    tokenizer = embedder.tokenizer
    if not isinstance(tokenizer, ModelTokenizer):
        raise ServiceMissing(
            "the splitter counts tokens with a local model's tokenizer: choose another HEADRACE_RUNTIME"
        )
    split = ways_of(tokenizer, min(settings.max_chunk_tokens, embedder.max_tokens))["recursive"].counted
    ways: dict[str, Way] = {
        "splitter, no cache": Splitter(CountingEmbedder(embedder), split, cache=False),
        "splitter, cache": Splitter(CountingEmbedder(embedder), split, cache=True),
        "Headrace": Headrace(CountingEmbedder(embedder), settings),
    }
    source = git_history(repo, patterns, commits) if repo else release_history(package, versions.split(","), console)
    rows = replay(source, ways, console)
    _conclude(report, rows, list(ways), "commits" if repo else f"releases of {package}", embedder.runtime)
    console.step(f"wrote {report.write()}")


def _conclude(report: Report, rows: list[dict[str, object]], ways: list[str], what: str, runtime: str) -> None:
    def total(way: str, key: str) -> float:
        return sum(row[way][key] for row in rows)  # type: ignore[index]

    base = total(ways[0], "model_s")
    summary = [
        [way, total(way, "chunks"), total(way, "embedded"), total(way, "calls"), total(way, "model_s"),
         f"{base / max(total(way, 'model_s'), 1e-9):.1f} ×"]
        for way in ways
    ]  # fmt: skip
    report.tables += [
        Table(
            f"All {len(rows)} {what} after the first",
            ("way", "chunks of changed documents", "embedded", "model calls", "model seconds", "less"),
            summary,
        ),
        Table(
            "Chunks embedded, and model seconds, by revision",
            ("revision", "documents changed", *ways, *(f"{way}, s" for way in ways)),
            [
                [row["revision"], row["documents"], *(row[way]["embedded"] for way in ways),  # type: ignore[index]
                 *(row[way]["model_s"] for way in ways)]  # type: ignore[index]
                for row in rows
            ],
        ),
    ]  # fmt: skip
    report.figures["revisions"] = rows
    report.notes += [
        f"Model: {runtime}, in this process, for all ways alike. Chunks of at most the same number of tokens.",
        "The first revision is taken as embedded in all ways and is in no figure.",
        "A document counts as changed if its text did. What Kafka would bring twice, or without a change, is not here.",
    ]


if __name__ == "__main__":
    try:
        history()
    except HeadraceError as error:
        sys.exit(f"bench-history: {error}")
