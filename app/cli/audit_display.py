"""What `headrace audit` shows: bars on stderr while it goes, or a line now and then, and its findings in the end."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from app.audit.audit import Report
from app.audit.compare import KINDS

_LINE_EVERY_S = 5.0


class AuditProgress:
    """A bar for each step on a terminal, else a line every few seconds. `tell` is called by any thread."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LINE_EVERY_S
        self._tasks: dict[str, TaskID] = {}
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=Console(stderr=True)) if sys.stderr.isatty() else None

    def tell(self, what: str, done: int, total: int) -> None:
        """So much of a step is done. total: 0 if nobody knows."""
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=None)
            self._bars.update(self._tasks[what], completed=done, total=total or None)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            click.echo(f"{what}: {done:,}" + (f" of {total:,}" if total else ""), err=True)

    def __enter__(self) -> AuditProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


def show(console: Console, report: Report, examples: int) -> None:
    """The report for people."""
    replicas = ", ".join(report.replicas) or "none"
    redis = "Redis" if report.redis else "no Redis"
    console.print(
        f"{report.documents:,} documents in the log, {report.changes:,} in the changes, {report.rows:,} rows in the "
        f"shards of replica {replicas}, {redis}"
    )
    if report.findings:
        console.print(_table(report))
    for finding in report.examples(examples):
        where = "" if finding.replica is None else f" of replica {finding.replica}"
        place = f"  {finding.kind} in shard {finding.partition}{where}: "
        console.print(Text.assemble(place, (finding.id, "bold"), f"; topic: {finding.topic}; found: {finding.holds}"))
    if report.left is not None and report.findings:
        console.print(Text(f"repair: {report.produced:,} records produced, {len(report.left):,} documents still wrong"))
    for problem in report.problems:
        console.print(Text(f"not audited: {problem}", "bold red"))
    console.print(_verdict(report))


def _verdict(report: Report) -> Text:
    if report.status == 2:
        return Text("incomplete: what is said above holds, but not everything could be looked at", "bold red")
    if report.status == 1:
        advice = "run `headrace audit --repair`" if report.left is None else (
            "what a repair cannot mend is mended by a rebuild: stop the index worker, delete the shard's file, start it"
        )  # fmt: skip
        return Text(f"drift: {advice}", "bold red")
    return Text("clean, after the repair" if report.findings else "clean", "bold green")


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("count", "kind", "replica", "shard", "meaning"):
        table.add_column(name, justify="right" if name == "count" else "left")
    meanings = {str(kind): meaning for kind, meaning in KINDS.items()}
    for (kind, replica, partition), count in sorted(report.counts().items(), key=str):
        table.add_row(f"{count:,}", kind, replica or "", str(partition), meanings[kind])
    return table
