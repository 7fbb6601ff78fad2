"""`make bench-keyword`: the keyword index of a shard (tantivy) beside SQLite FTS5, over the same chunks.

Each runs in a process of its own (`--part`), one after the other, and says what it measured as one line of JSON.
"""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import click
import orjson
import psutil

from app.local.console import Console
from app.local.process import tied
from app.shard.keyword import KeywordIndex
from bench.meters import quantiles
from bench.report import Report, Table
from bench.texts import Reader
from schemas.errors import HeadraceError, ServiceMissing

K = 10
UPDATE_ROWS = 32
CHUNK_CHARS = 300
QUERIES, UPDATES, CHURNS = 300, 200, 5
CHURN_ROWS, CHURN_BATCH = 20_000, 256
_FTS_BATCH = 1024
_SEED = 20
_WITHIN_S = 1_200
_SWITCH_INTERVAL_S = 0.0005  # as the index worker has it
_WORD = re.compile(r"[A-Za-z]{3,}")
_SPAN = re.compile(rf".{{1,{CHUNK_CHARS}}}(?:\s|$)|\S+", re.S)

Row = tuple[int, int, str | None, str]


class Keywords(Protocol):
    """What is compared. `search` is given words, a phrase or the beginning of a word."""

    def add(self, rows: Sequence[Row]) -> None: ...
    def replace(self, removed: Sequence[Row], rows: Sequence[Row]) -> None: ...
    def search(self, kind: str, words: Sequence[str]) -> int: ...


class Tantivy:
    """KeywordIndex as the shard uses it."""

    def __init__(self, _: Path) -> None:
        self.index = KeywordIndex()

    def add(self, rows: Sequence[Row]) -> None:
        self.index.add(rows)
        self.index.refresh()

    def replace(self, removed: Sequence[Row], rows: Sequence[Row]) -> None:
        self.index.add(rows)
        self.index.remove(row[0] for row in removed)
        self.index.refresh()

    def search(self, kind: str, words: Sequence[str]) -> int:
        joined = " ".join(words)
        query = {"phrase": f'"{joined}"', "prefix": f"{joined}*"}.get(kind, joined)
        return len(self.index.search(query, K))


class Fts5:
    """An external-content table beside the chunks, in a file, as it would be in a shard's."""

    def __init__(self, folder: Path) -> None:
        self._file = sqlite3.connect(folder / "fts.sqlite", isolation_level=None)
        self._file.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "CREATE TABLE chunks (label INTEGER PRIMARY KEY, doc INTEGER, title TEXT, text TEXT);"
            "CREATE VIRTUAL TABLE keywords USING fts5(title, text, content='chunks', content_rowid='label', "
            "tokenize='porter unicode61 remove_diacritics 2');"
        )

    def add(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), _FTS_BATCH):
            self.replace((), rows[start : start + _FTS_BATCH])

    def replace(self, removed: Sequence[Row], rows: Sequence[Row]) -> None:
        run = self._file.executemany
        self._file.execute("BEGIN")
        run(
            "INSERT INTO keywords (keywords, rowid, title, text) VALUES ('delete', ?, ?, ?)",
            ((label, title, text) for label, _, title, text in removed),
        )
        run("DELETE FROM chunks WHERE label = ?", ((row[0],) for row in removed))
        run("INSERT INTO chunks VALUES (?, ?, ?, ?)", rows)
        run("INSERT INTO keywords (rowid, title, text) VALUES (?, ?, ?)", ((row[0], *row[2:]) for row in rows))
        self._file.execute("COMMIT")

    def search(self, kind: str, words: Sequence[str]) -> int:
        joined = " ".join(words)
        match = {"phrase": f'"{joined}"', "prefix": f"{joined}*"}.get(kind) or " OR ".join(f'"{w}"' for w in words)
        sql = "SELECT rowid FROM keywords WHERE keywords MATCH ? ORDER BY bm25(keywords, 2.0, 1.0) LIMIT ?"
        return len(self._file.execute(sql, (match, K)).fetchall())


class Counter:
    """How much of the interpreter another thread gets: its steps per second, and the longest it waited for one."""

    def beside(self, work: Callable[[], object]) -> dict[str, float]:
        """Runs `work` beside a thread that only counts."""
        self._stop, self._steps, self._longest_s = False, 0, 0.0
        thread = threading.Thread(target=self._count)
        thread.start()
        began = time.perf_counter()
        work()
        took_s = time.perf_counter() - began
        self._stop = True
        thread.join()
        return {"steps_per_ms": self._steps / took_s / 1000, "longest_wait_ms": self._longest_s * 1000}

    def _count(self) -> None:
        before = time.perf_counter()
        while not self._stop:
            now = time.perf_counter()
            self._longest_s = max(self._longest_s, now - before)
            before = now
            self._steps += 1


def rows_of(count: int) -> list[Row]:
    """Docstrings in pieces of up to 300 characters, with their titles. Fewer where the corpus ends."""
    documents = chain.from_iterable(iter(partial(Reader().documents, 1000), []))
    pieces = ((n, item.title, piece[0]) for n, item in enumerate(documents) for piece in _SPAN.finditer(item.text))
    return [(label, *piece) for label, piece in enumerate(islice(pieces, count), 1)]


def queries_of(rows: Sequence[Row]) -> dict[str, list[list[str]]]:
    """Words that stand together in some chunk, each query from another."""
    choose = random.Random(_SEED)
    texts = [words for row in choose.sample(rows, len(rows)) if len(words := _WORD.findall(row[3].lower())) >= K]
    texts = texts[:QUERIES]
    return {
        **{f"{n} words": [choose.sample(words, n) for words in texts] for n in (1, 2, 4)},
        "phrase": [words[at : at + 3] for words in texts for at in [choose.randrange(len(words) - 3)]],
        "prefix": [[max(words, key=len)[:4]] for words in texts],
    }


def measure(keywords: Keywords, rows: Sequence[Row], folder: Path, console: Console) -> dict[str, Any]:
    """Build, search, update, then replace again and again."""
    resident = psutil.Process().memory_info
    before = resident().rss
    began = time.perf_counter()
    keywords.add(rows)
    facts: dict[str, Any] = {"rows_per_s": len(rows) / (time.perf_counter() - began)}
    facts["built_rss_mb"] = (resident().rss - before) / 1e6
    facts["file_mb"] = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    console.step(f"  {facts['rows_per_s']:,.0f} rows/s")
    asked = queries_of(rows)
    facts["search_ms"] = {kind: _timed(partial(keywords.search, kind), asked[kind]) for kind in asked}
    facts["search_beside"] = Counter().beside(lambda: [keywords.search("4 words", q) for q in asked["4 words"]])
    stream = Replacements(keywords, rows)
    facts["update_ms"] = _timed(stream.step, [UPDATE_ROWS] * UPDATES)
    facts["update_beside"] = Counter().beside(partial(_timed, stream.step, [UPDATE_ROWS] * (UPDATES // 4)))
    console.step("  replacing everything")
    facts["churn_rss_mb"] = []
    for _ in range(CHURNS):
        for _ in range(0, min(len(rows), CHURN_ROWS), CHURN_BATCH):
            stream.step(CHURN_BATCH)
        facts["churn_rss_mb"].append((resident().rss - before) / 1e6)
    facts["churned_search_ms"] = _timed(partial(keywords.search, "4 words"), asked["4 words"])
    facts["idle_beside"] = Counter().beside(lambda: time.sleep(0.5))
    if isinstance(keywords, Tantivy):
        facts["estimated_mb"] = keywords.index.memory_bytes / 1e6
    return facts


class Replacements:
    """Replaces the oldest of the first rows by the same texts with new labels, round and round."""

    def __init__(self, keywords: Keywords, rows: Sequence[Row]) -> None:
        self._keywords = keywords
        self._waiting = list(rows[:CHURN_ROWS])
        self._next_label = len(rows) + 1

    def step(self, count: int) -> None:
        """One update: what it writes can be found when it returns."""
        old, kept = self._waiting[:count], self._waiting[count:]
        new = [(self._next_label + at, *row[1:]) for at, row in enumerate(old)]
        self._next_label += len(new)
        self._waiting = kept + new
        self._keywords.replace(old, new)


def _timed(work: Callable[[Any], object], items: Sequence[Any]) -> dict[str, float]:
    took_ms = []
    for item in items:
        began = time.perf_counter()
        work(item)
        took_ms.append((time.perf_counter() - began) * 1000)
    return quantiles(took_ms)


PARTS: dict[str, Callable[[Path], Keywords]] = {"tantivy": Tantivy, "FTS5": Fts5}


@click.command()
@click.option("--chunks", default=100_000, show_default=True, type=click.IntRange(min=1000), help="In the index.")
@click.option("--name", default="keyword", show_default=True, help="Of the files in bench/results.")
@click.option("--part", type=click.Choice(list(PARTS)), hidden=True)
@click.option("--rows", type=click.Path(path_type=Path), hidden=True)
def keyword(chunks: int, name: str, part: str | None, rows: Path | None) -> None:
    """Measure tantivy and SQLite FTS5 over docstrings of the installed packages."""
    console = Console(out=sys.stderr)
    if part is not None and rows is not None:
        _measure_part(part, rows, console)
        return
    report = Report(name, "The keyword index: tantivy and SQLite FTS5", "make bench-keyword", sys.argv[1:])
    console.step(f"reading {chunks:,} chunks")
    texts = rows_of(chunks)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "rows.json")
            file.write_bytes(orjson.dumps(texts))
            found = {each: _run(each, file, console) for each in PARTS}
    except HeadraceError as error:
        sys.exit(f"bench: {error}")
    _conclude(report, found, texts)
    console.say(report.write().read_text(encoding="utf-8"))


def _measure_part(part: str, rows: Path, console: Console) -> None:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with tempfile.TemporaryDirectory() as folder:
        given = [(label, doc, title, text) for label, doc, title, text in orjson.loads(rows.read_bytes())]
        facts = measure(PARTS[part](Path(folder)), given, Path(folder), console)
    sys.stdout.buffer.write(orjson.dumps(facts) + b"\n")


def _run(part: str, rows: Path, console: Console) -> dict[str, Any]:
    console.step(part)
    command = [sys.executable, "-m", "bench.keyword", "--part", part, "--rows", str(rows)]
    done = subprocess.run(
        tied(command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_WITHIN_S, check=False
    )
    if done.returncode != 0:
        raise ServiceMissing(f"{part} did not run; the lines above may say why")
    facts: dict[str, Any] = orjson.loads(done.stdout)
    return facts


def _conclude(report: Report, found: dict[str, dict[str, Any]], rows: Sequence[Row]) -> None:
    chars = sum(len(row[3]) for row in rows) / len(rows)
    report.figures = found
    report.sizes = {"chunks": len(rows), "characters_mean": chars, "queries": QUERIES, "updates": UPDATES}
    report.tables = [_costs(found), _searches(found), _beside(found)]
    report.notes = [
        f"{len(rows):,} pieces of docstrings with titles, {chars:.0f} characters in the mean; top {K}, one thread.",
        f"SQLite {sqlite3.sqlite_version}: external content, porter, WAL, NORMAL, in a file with all texts.",
        "tantivy: in memory, through KeywordIndex.",
        f"An update removes {UPDATE_ROWS} chunks and adds as many, until they can be found.",
        f"Replacing: {CHURN_ROWS:,} chunks (or all, if fewer) {CHURNS} times over, {CHURN_BATCH} at a time.",
        "Memory is the growth of the process's resident set since before the first chunk.",
        f"Words of one query stand together in some chunk; {QUERIES} queries of each kind; prefixes have 4 letters.",
        "The counting thread does nothing but read the clock; idle: beside a sleeping one.",
    ]


def _costs(found: dict[str, dict[str, Any]]) -> Table:
    rows = [
        (
            part,
            facts["rows_per_s"],
            facts["update_ms"]["p50"],
            facts["update_ms"]["p99"],
            facts["file_mb"],
            facts["built_rss_mb"],
            " ".join(f"{mb:.0f}" for mb in facts["churn_rss_mb"]),
            facts.get("estimated_mb", ""),
        )
        for part, facts in found.items()
    ]
    columns = ("", "rows/s built", f"{UPDATE_ROWS} chunks, p50 ms", "p99 ms", "file MB", "memory MB")
    return Table("Writing", (*columns, "MB after each round of replacing", "MB as estimated"), rows)


def _searches(found: dict[str, dict[str, Any]]) -> Table:
    rows = [
        (kind, *(facts["search_ms"][kind][quantile] for facts in found.values() for quantile in ("p50", "p99")))
        for kind in next(iter(found.values()))["search_ms"]
    ]
    churned = [facts["churned_search_ms"][quantile] for facts in found.values() for quantile in ("p50", "p99")]
    columns = [f"{part} {quantile}" for part in found for quantile in ("p50", "p99")]
    return Table("Searching, ms", ("any of", *columns), [*rows, ("4 words, after replacing", *churned)])


def _beside(found: dict[str, dict[str, Any]]) -> Table:
    rows = [
        (part, beside, facts[f"{beside}_beside"]["steps_per_ms"], facts[f"{beside}_beside"]["longest_wait_ms"])
        for part, facts in found.items()
        for beside in ("idle", "search", "update")
    ]
    return Table("A counting Python thread", ("", "beside", "steps/ms", "longest wait ms"), rows)


if __name__ == "__main__":
    keyword()
