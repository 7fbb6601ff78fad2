"""The table of runtimes that `headrace model prepare` and `headrace bench embed` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from app.model.survey import Surveyed

_AGREEMENT = ("top-10 overlap", "cosine", "loaded in")
_SPEED = ("texts/s", "a query", "20 ms apart")


def show_survey(found: Sequence[Surveyed]) -> None:
    """Print what was found, on stdout; the columns of speed only where something was timed."""
    timed = any(one.speed is not None for one in found)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("runtime", no_wrap=True)
    for column in (*_AGREEMENT, *(_SPEED if timed else ())):
        table.add_column(column, justify="right")
    for one in found:
        if one.usable:
            table.add_row(one.name, *_agreement(one), *(_speed(one) if timed else ()))
    console = Console()
    console.print(table)
    for one in found:
        if not one.usable:
            console.print(f"{one.name}: {one.problem}", soft_wrap=True, highlight=False)


def _agreement(one: Surveyed) -> tuple[str, str, str]:
    loaded = "" if one.load_s is None else f"{one.load_s:.1f} s"
    if one.agreement is None:
        return "reference" if one.runtime == "reference" else "not known", "", loaded
    return f"{one.agreement.top10_overlap:.3f}", f"{one.agreement.cosine_min:.5f}", loaded


def _speed(one: Surveyed) -> tuple[str, ...]:
    if one.speed is None:
        return ()
    return f"{one.speed.texts_per_s:.0f}", f"{one.speed.single_ms:.1f} ms", f"{one.speed.apart_ms:.1f} ms"
