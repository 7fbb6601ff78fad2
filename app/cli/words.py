"""Times, shares and the freshness objective as people read them."""

from __future__ import annotations

from app.cli.asking import Answer, verdict

WINDOWS = {"300": "5 min", "3600": "1 h"}
STAGES = {"embed": "changes", "index": "vectors"}  # what waits for each


def took(ms: float | None) -> str:
    """83 µs, 4.2 ms, 38 ms, 1.24 s, 3.2 min, 2.1 h; a dash for what is not known."""
    if ms is None:
        return "–"
    if 0 < ms < 0.9995:
        return f"{ms * 1000:.0f} µs"
    if 0 < ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    for unit, unit_ms, end_ms in (("s", 1000, 60_000), ("min", 60_000, 3_600_000)):
        if ms < end_ms:
            return f"{ms / unit_ms:.3g} {unit}"
    return f"{ms / 3_600_000:.1f} h"


def objective(freshness: Answer) -> list[tuple[str, str]]:
    """What has become of the objective, and how fast its budget burns, in pieces of one style each."""
    aim = f"within {took(freshness['objective_ms'])}, wanted {freshness['objective_ratio'] * 100:g} %"
    pieces = [verdict(freshness), (": ", "")]
    hour = freshness["windows"]["3600"]
    count = hour["met"] + hour["missed"]
    if not count:
        return [*pieces, (aim, "")]
    pieces.append((f"{100 * hour['met'] / count:.2f} % {aim}  burn", ""))
    for seconds, name in WINDOWS.items():
        burn = freshness["windows"][seconds]["burn"]
        pieces.append((f" {name} {burn:.2g} ", "yellow" if burn > 1 else ""))
    return pieces


def lag(answer: Answer, stage: str, shard: int) -> str:
    """How much a stage has before it for a shard, e.g. 3, 250 ms; a dash where nobody knows."""
    told = ((answer.get("lag") or {}).get(stage) or {}).get(str(shard))
    if not told or told["records"] is None:
        return "–"
    records, seconds = told["records"], told["seconds"] or 0.0
    return f"{records:,}, {took(seconds * 1000)}" if records and seconds else f"{records:,}"


def dead_letters(answer: Answer) -> int | None:
    """How many there are; None where nobody knows."""
    letters: int | None = (answer.get("lag") or {}).get("dead_letters")
    return letters
