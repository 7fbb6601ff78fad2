"""One screen of `headrace top`, of any size: what matters most comes first, and what does not fit is left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.text import Text

from app.cli import words
from app.cli.asking import Answer, Told

MOST_KEPT = 240  # looks, for the curves
LEAST_WIDTH, LEAST_HEIGHT = 60, 12
_WIDE = 120  # from here on shards stand beside the steps
_BLOCKS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_READY = {"ready": "green", "catching up": "yellow", "loading": "yellow"}


@dataclass
class View:
    """What is shown. told: the last answer. gone: why there is none now. searches_per_s: of the asked gateway."""

    url: str
    told: Told | None = None
    gone: str | None = None
    searches_per_s: float | None = None
    search_ms: float | None = None
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))


def frame(view: View, width: int, height: int) -> Text:
    """At most `height` lines of at most `width` characters; before the first answer a sentence, to be wrapped."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return _joined([Text(f"at least {LEAST_WIDTH} x {LEAST_HEIGHT} characters are needed")], width, height)
    if view.told is None:
        return Text(view.gone or f"asking {view.url} …", "bold red" if view.gone else "dim")
    answer = view.told.answer
    above = _head(view, view.told, width) + _obstacles(view.told, most=2 if height < 30 else 6)
    above += [_rates(view, view.told), _line("objective  ", *words.objective(answer["freshness"]))]
    below = [_cache(view.told), _checks(answer), _foot(width)]
    room = height - len(above) - len(below)
    if width >= _WIDE:
        left = (width - 3) // 2
        beside = _beside(_steps(answer["freshness"], left), _shards(answer, width - 3 - left, room), left)
    else:
        steps = _steps(answer["freshness"], width)[: max(0, room - 2)]
        beside = steps + _shards(answer, width, room - len(steps))
    extra = room - len(beside)
    middle = beside + _curves(view, width)[: max(0, extra)]
    middle += _workers(view.told)[: max(0, room - len(middle))]
    blank = [Text()] * max(0, room - len(middle))
    lines = (above + middle)[: height - len(below)] + blank + below
    shown = _joined(lines, width, height)
    if view.gone is not None:
        shown.stylize("dim", len(lines[0]))
    return shown


def _line(*pieces: str | tuple[str, str]) -> Text:
    return Text.assemble(*pieces)


def _flat(message: str) -> str:
    """An error may have lines of its own."""
    return " ".join(message.split())


def _joined(lines: Iterable[Text], width: int, height: int) -> Text:
    shown = []
    for line in list(lines)[:height]:
        line.truncate(width, overflow="ellipsis")
        shown.append(line)
    return Text("\n", no_wrap=True).join(shown)


def _apart(left: Text, right: Text, width: int) -> Text:
    """At both ends of a line; the left one gives way."""
    left.truncate(max(0, width - len(right) - 2), overflow="ellipsis")
    return Text.assemble(left, " " * (width - left.cell_len - right.cell_len), right)


def _head(view: View, told: Told, width: int) -> list[Text]:
    answer, stale_ms = told.answer, told.answer["staleness_ms"]
    if view.gone is not None:
        first = _line((_flat(view.gone), "bold red"))
    else:
        state = ("not ready", "bold red") if told.obstacles else ("ready", "bold green")
        as_of = "of unknown age" if stale_ms is None else f"as of {answer['as_of'][11:21]}Z, "
        fresh = ("", "") if stale_ms is None else (words.took(stale_ms), _level(stale_ms, answer))
        first = _apart(
            _line((answer["collection"], "bold"), "  ", state),
            _line(as_of, fresh, "" if stale_ms is None else " stale"),
            width,
        )
    held = f"{answer['documents']:,} documents, {answer['chunks']:,} chunks"
    second = _apart(_line((f"model {answer['model']}", "dim")), _line((held, "dim")), width)
    return [first, second]


def _obstacles(told: Told, most: int) -> list[Text]:
    """Some of what is in the way, and how much more there is."""
    found = told.obstacles
    lines = [_line(("! ", "bold red"), (_flat(what), "red")) for what in found[:most]]
    if len(found) > most:
        lines[-1].append(f"  … and {len(found) - most} more, see `headrace status`", "red")
    return lines


def _rates(view: View, told: Told) -> Text:
    embedded = "–" if told.workers is None else f"{sum(worker['events_per_s'] for worker in told.workers):,.1f}"
    asked = "–" if view.searches_per_s is None else f"{view.searches_per_s:,.1f}"
    each = "" if view.search_ms is None else f", {words.took(view.search_ms)}"
    shown = f"{told.answer['freshness']['documents_per_s']:,.1f}"
    pieces: list[str | tuple[str, str]] = ["rates      "]
    pieces += [(embedded, "bold"), "/s embedded  ", (shown, "bold"), "/s visible  "]
    return _line(*pieces, (asked, "bold"), f"/s searched{each}")


def _steps(freshness: Answer, width: int) -> list[Text]:
    latency = freshness["latency_ms"]
    if not latency["count"]:
        return [_line(("no document became visible in the last five minutes", "dim"))]
    means = {name: step["mean_ms"] or 0.0 for name, step in freshness["steps"].items()}
    whole = sum(means.values()) or 1.0
    room = width - 22 - 27 - 2
    title = f"of the last {latency['count']:,} documents"
    lines = [_columns(_line((title, "dim")), "share", "p50", "p99", width=width, style="dim")]
    for name, step in freshness["steps"].items():
        share = means[name] / whole
        bar = _bar(means[name] / max(max(means.values()), 1e-9), room)
        left = _line(f"  {name:<20}", (bar, "cyan"))
        p50, p99 = words.took(step["p50_ms"]), words.took(step["p99_ms"])
        lines.append(_columns(left, f"{share:.0%}", p50, p99, width=width))
    p50, p99 = words.took(latency["p50"]), words.took(latency["p99"])
    slow = "bold " + ("yellow" if (latency["p99"] or 0) > freshness["objective_ms"] else "green")
    lines.append(_columns(_line(("  sent to visible", "bold")), "", p50, p99, width=width, style=slow))
    return lines


def _columns(left: Text, *numbers: str, width: int, style: str = "") -> Text:
    share, p50, p99 = numbers
    return _apart(left, _line((f"{share:>7}{p50:>10}{p99:>10}", style)), width)


def _bar(share: float, room: int) -> str:
    eighths = round(min(max(share, 0.0), 1.0) * room * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _level(stale_ms: float | None, answer: Answer) -> str:
    """The style of a staleness."""
    if stale_ms is None:
        return "red"
    return "green" if stale_ms <= answer["freshness_objective_ms"] else "yellow"


def _shards(answer: Answer, width: int, room: int) -> list[Text]:
    """All by number, or where there are too many, those that need to be looked at."""
    rows = answer["shards"]
    if room < 2:
        return []
    replicas = len({row["replica"] for row in rows if row["replica"] is not None}) > 1
    heads = [f"{topic} wait" for topic in words.STAGES.values()]
    title = _line(("shard   state          stale", "dim"))
    lines = [_apart(title, _line((f"{heads[0]:>15}{heads[1]:>15}", "dim")), width)]
    if len(rows) > room - 1:
        rows = sorted(rows, key=_soundness)[: room - 2]
    lines += [_shard(row, answer, width, replicas=replicas) for row in rows]
    if len(rows) < len(answer["shards"]):
        lines.append(_line((f"  … and {len(answer['shards']) - len(rows)} more that are better off", "dim")))
    return lines


def _soundness(row: Answer) -> tuple[bool, float]:
    """The less, the worse."""
    stale_ms = row["staleness_ms"]
    return row["state"] == "ready" and not row["paused"], float("-inf") if stale_ms is None else -stale_ms


def _shard(row: Answer, answer: Answer, width: int, *, replicas: bool) -> Text:
    name = f"{row['shard']}·{row['replica'] or '–'}" if replicas else str(row["shard"])
    state = "paused" if row["paused"] else row["state"]
    stale_ms = row["staleness_ms"]
    waits = "".join(f"{words.lag(answer, stage, row['shard']):>15}" for stage in words.STAGES)
    most_ms = 2 * answer["freshness_objective_ms"]
    bar = "" if stale_ms is None else _bar(stale_ms / most_ms, max(4, width - 31 - len(waits) - 2))
    left = _line(f"  {name[:5]:<6}", (f"{state:<12}", _READY.get(state, "red")))
    level = _level(stale_ms, answer)
    left.append(f" {words.took(stale_ms):>7}  ", level).append(bar, level)
    return _apart(left, _line(waits), width)


def _beside(left: list[Text], right: list[Text], width: int) -> list[Text]:
    lines = []
    for number in range(max(len(left), len(right))):
        one = left[number] if number < len(left) else Text()
        other = right[number] if number < len(right) else Text()
        one.truncate(width, overflow="ellipsis", pad=True)
        lines.append(Text.assemble(one, "   ", other))
    return lines


def _curves(view: View, width: int) -> list[Text]:
    """What came while this looked on."""
    if len(view.rates) < 2:
        return []
    pairs = (("documents/s", view.rates, "{:,.0f}"), ("p99", view.latencies_ms, ""))
    lines = [Text()]
    for name, values, form in pairs:
        if values:
            most = form.format(max(values)) if form else words.took(max(values))
            shown = list(values)[-(width - 30) :]
            lines.append(_line(f"{name:<13}", (_curve(shown), "cyan"), (f" up to {most}", "dim")))
    return lines


def _curve(values: list[float]) -> str:
    most = max(values) or 1.0
    return "".join(_BLOCKS[min(7, int(value / most * 8))] for value in values)


def _workers(told: Told) -> list[Text]:
    if not told.workers:
        return []
    lines = [Text(), _line(("embed workers", "dim"))]
    for worker in told.workers:
        state = ("ready", "green") if worker["reason"] is None else (_flat(worker["reason"]), "red")
        does = f"  {worker['events_per_s']:,.1f} events/s, {worker['waiting_events']:,} waiting, {worker['runtime']}  "
        lines.append(_line("  ", (worker["worker"], "bold"), does, state))
    return lines


def _cache(told: Told) -> Text:
    redis = told.answer["services"]["redis"]
    pieces: list[str | tuple[str, str]] = ["cache      "]
    if told.workers:
        hits, misses, saved, spent = (
            sum(worker[name] for worker in told.workers)
            for name in ("hits", "misses", "model_seconds_saved", "model_seconds")
        )
        ratio = f"{hits / (hits + misses):.1%} hits" if hits + misses else "nothing yet"
        pieces.append(f"{ratio}, model {spent:,.1f} s spent, {saved:,.1f} s saved  ")
    else:
        pieces.append("– ")
    return _line(*pieces, " Redis ", (redis, "yellow" if redis == "unavailable" else ""))


def _checks(answer: Answer) -> Text:
    letters = words.dead_letters(answer)
    probes, drift = answer["checks"]["probes"], answer["checks"]["drift"]
    failed = probes.get("failed", 0)
    return _line(
        "checks     dead letters ",
        ("–" if letters is None else f"{letters:,}", "yellow" if letters else ""),
        f"   probes {probes.get('seen', 0):,} seen, ",
        (f"{failed:,} failed", "bold red" if failed else ""),
        "   drift ",
        ("–" if drift is None else f"{drift:,}", "bold red" if drift else ""),
    )


def _foot(width: int) -> Text:
    return _apart(Text(), _line(("q leaves", "dim")), width)
