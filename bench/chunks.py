"""`make bench-chunks`: what an edit of one sentence embeds again, by the way in which documents are cut.

Headrace's chunker beside LangChain's RecursiveCharacterTextSplitter, with and without overlap, and beside the chunker
that Headrace had before. All count with the tokenizer of the model, and have the same limit.
"""

from __future__ import annotations

import random
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from app.local.console import Console
from app.model.folder import ModelFolder
from app.model.source import DEFAULT_MODEL, find_model
from app.model.tokens import ModelTokenizer
from bench.report import Report, Table, Target
from bench.splitters import Way, ways_of
from bench.texts import Reader
from schemas.errors import HeadraceError

SIZES = (10, 100, 500)
KINDS = ("insert", "delete", "change")
FEW = 3
NEW_SENTENCES = 2_000
_CODE_POINTS_PER_CHUNK = 750  # about what a chunk of 256 tokens holds
_MIN_CHARS = 3_000  # shorter files are no long documents
_SEED = 20
_SENTENCE = re.compile(r"(?:(?<=\n)|(?<=[.!?] ))[A-Z][^.!?\n#|]{20,160}[.!?](?=\s)")
_METADATA_HEAD = re.compile(r"(?:\S.*\n|[ \t].*\n)+\n")


@dataclass(slots=True)
class Figures:
    """Of one way to cut. fresh: by (size, kind) of all edits, how many chunks were not there before."""

    chunks: dict[int, list[int]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    fresh: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    characters: int = 0
    seconds: float = 0.0


def documents(corpus: str, chunk_count: int, count: int) -> list[str]:
    """Texts of about that many chunks, each of whole files or docstrings, one after the other, in another order."""
    parts, between = list(CORPORA[corpus]()), " " if corpus == "one paragraph" else "\n\n"
    choose = random.Random(f"{_SEED} {corpus} {chunk_count}")
    found = []
    for _ in range(count):
        choose.shuffle(parts)
        found.append(between.join(parts)[: chunk_count * _CODE_POINTS_PER_CHUNK])
    return found


def _files() -> Iterator[str]:
    """Markdown and reStructuredText in the folder of installed packages, descriptions of packages among them."""
    root = Path(sysconfig.get_paths()["purelib"])
    paths = sorted(path for kind in ("*.md", "*.rst", "METADATA") for path in root.rglob(kind))
    texts = dict.fromkeys(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    for text in texts:
        head = _METADATA_HEAD.match(text) if text.startswith("Metadata-Version") else None
        body = text[head.end() :] if head else text
        if len(body) >= _MIN_CHARS:
            yield body


def _docstrings() -> Iterator[str]:
    return (document.text for document in Reader().documents(5_000))


def _sentences() -> Iterator[str]:
    """Sentences to be put in one paragraph, as in a transcript: none of those that edits bring."""
    return iter(Reader().sentences(10_000)[NEW_SENTENCES:])


CORPORA: dict[str, Callable[[], Iterator[str]]] = {
    "files": _files,
    "docstrings": _docstrings,
    "one paragraph": _sentences,
}


def edits(text: str, news: Sequence[str], kind: str, count: int) -> Iterator[str]:
    """The text with one of its sentences deleted, or another put behind it or in its place."""
    choose = random.Random(f"{_SEED} {kind} {len(text)}")
    places = list(_SENTENCE.finditer(text))
    for place in choose.choices(places, k=count):
        new = choose.choice(news)
        before, sentence, after = text[: place.start()], place[0], text[place.end() :]
        yield {
            "insert": f"{before}{sentence} {new}{after}",
            "delete": before + after.lstrip(" "),
            "change": before + new + after,
        }[kind]


def measure(
    way: Way, tokenizer: ModelTokenizer, texts: dict[int, list[str]], news: Sequence[str], count: int
) -> Figures:
    """Cut every text, and again after each edit. count: edits of each kind in each text."""
    figures = Figures()
    for size, these in texts.items():
        for text in these:
            began = time.perf_counter()
            chunks = way.timed(text)
            figures.seconds += time.perf_counter() - began
            figures.characters += len(text)
            figures.chunks.setdefault(size, []).append(len(chunks))
            figures.tokens += tokenizer.counts(chunks)
            known = set(chunks)
            for kind in KINDS:
                fresh = [len(set(way.counted(edit)) - known) for edit in edits(text, news, kind, count)]
                figures.fresh.setdefault((size, kind), []).extend(fresh)
    return figures


@click.command()
@click.option("--edits", "edit_count", default=15, show_default=True, type=click.IntRange(min=5), help="Of each kind.")
@click.option("--documents", "document_count", default=3, show_default=True, type=click.IntRange(min=1), help="A size.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(min=64, max=256), help="Of a chunk.")
@click.option("--name", default="chunks", show_default=True, help="Of the files in bench/results.")
def chunks(edit_count: int, document_count: int, max_tokens: int, name: str) -> None:
    """Measure what edits of one sentence embed again."""
    console = Console(out=sys.stderr)
    report = Report(name, "What an edit of one sentence embeds again", "make bench-chunks", sys.argv[1:])
    try:
        tokenizer = ModelTokenizer(ModelFolder(find_model(DEFAULT_MODEL), DEFAULT_MODEL))
        ways = ways_of(tokenizer, max_tokens)
    except (HeadraceError, ImportError) as error:
        sys.exit(f"bench: {error}")
    news = Reader().sentences(NEW_SENTENCES)
    found: dict[str, dict[str, Figures]] = {}
    for corpus in CORPORA:
        texts = {size: documents(corpus, size, document_count) for size in SIZES}
        for title, way in ways.items():
            console.step(f"{corpus}: {title}")
            found.setdefault(corpus, {})[title] = measure(way, tokenizer, texts, news, edit_count)
    report.sizes = {"documents": document_count, "edits": edit_count, "max_tokens": max_tokens, "chunks": SIZES}
    _conclude(report, found, max_tokens)
    console.say(report.write().read_text(encoding="utf-8"))


def _conclude(report: Report, found: dict[str, dict[str, Figures]], max_tokens: int) -> None:
    for corpus, ways in found.items():
        report.figures[corpus] = {title: _facts(figures) for title, figures in ways.items()}
        report.targets += [_target(corpus, size, ways) for size in SIZES]
        report.tables += [_edits_table(corpus, ways), _sizes_table(corpus, ways, max_tokens)]
    documents, edit_count = report.sizes["documents"], report.sizes["edits"]
    report.notes = [
        f"Chunks of at most {max_tokens} tokens of the default model, special tokens included; no titles.",
        "files: Markdown and reStructuredText of the installed packages, 3,000 characters or more; docstrings: theirs.",
        "one paragraph: sentences of docstrings side by side, no line ends, as in a transcript.",
        f"A document is a row of these, cut at a length of {_CODE_POINTS_PER_CHUNK} characters for each chunk.",
        f"{documents} documents of each size, {edit_count} edits of each kind in each.",
        "An edit deletes a sentence, or puts another from elsewhere behind it or in its place.",
        "Embedded again: chunks whose text, with headings, was not among those before the edit.",
        "recursive: RecursiveCharacterTextSplitter of langchain-text-splitters with its default separators.",
        "Headrace before: packing from the left, without headings (bench/splitters.py).",
        "Fill: tokens of a chunk, of those allowed; repeated headings and overlap count as tokens.",
    ]


def _facts(figures: Figures) -> dict[str, Any]:
    return {
        "chunks": {str(size): counts for size, counts in figures.chunks.items()},
        "tokens_mean": float(np.mean(figures.tokens)),
        "mb_per_s": figures.characters / 1e6 / figures.seconds,
        "embedded_again": {f"{size} {kind}": fresh for (size, kind), fresh in figures.fresh.items()},
    }


def _target(corpus: str, size: int, ways: dict[str, Figures]) -> Target:
    fresh = [count for kind in KINDS for count in ways["Headrace"].fresh[size, kind]]
    share = float(np.mean([count <= FEW for count in fresh]))
    return Target(
        f"{corpus}, {size} chunks: an edit embeds at most {FEW} again",
        "95 % of edits",
        f"{share:.1%}, mean {np.mean(fresh):.2f}, most {max(fresh)}",
        share >= 0.95,
    )


def _edits_table(corpus: str, ways: dict[str, Figures]) -> Table:
    rows = []
    for size in SIZES:
        for kind in KINDS:
            for title, figures in ways.items():
                fresh = np.array(figures.fresh[size, kind])
                share = fresh.mean() / np.mean(figures.chunks[size])
                rows.append((size, kind, title, float(fresh.mean()), *_tail(fresh), f"{share:.1%}"))
    return Table(
        f"Chunks embedded again: {corpus}", ("chunks", "edit", "", "mean", "p95", "max", "of the document"), rows
    )


def _tail(fresh: NDArray[np.int64]) -> tuple[float, int]:
    return float(np.percentile(fresh, 95)), int(fresh.max())


def _sizes_table(corpus: str, ways: dict[str, Figures], max_tokens: int) -> Table:
    rows = [
        (
            title,
            *(float(np.mean(figures.chunks[size])) for size in SIZES),
            float(np.mean(figures.tokens)) / max_tokens,
            figures.characters / 1e6 / figures.seconds,
        )
        for title, figures in ways.items()
    ]
    columns = ("", *(f"chunks of documents of {size}" for size in SIZES), "mean fill", "MB/s")
    return Table(f"Chunks: {corpus}", columns, rows)


if __name__ == "__main__":
    chunks()
