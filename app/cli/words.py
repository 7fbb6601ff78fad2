"""Times, shares and the freshness objective as people read them."""

from __future__ import annotations

from app.cli.asking import Answer, verdict

WINDOWS = {"300": "5 min", "3600": "1 h"}


def took(ms: float | None) -> str:
    """0.42 ms, 38 ms, 1.24 s, 3.2 min, 2.1 h; a dash for what is not known."""
    if ms is None:
        return "–"
    if ms < 9.95:
        return f"{ms:.2g} ms"
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
    """How much a stage has before it for a shard, e.g. 3, 0.2 s; a dash where nobody knows."""
    known = (answer.get("lag") or {}).get(stage) or {}
    told = known.get(str(shard))
    if told is None or told["records"] is None:
        return "–"
    if not told["records"] or told["seconds"] is None:
        return f"{told['records']:,}"
    return f"{told['records']:,}, {took(told['seconds'] * 1000)}"
