"""Recall against latency as an SVG that reads on light and on dark ground."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from app.shard.tune import GraphResult, Point

_WIDTH, _HEIGHT = 880, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 856, 76, 456
_ROW_PX = 17  # of the legend
_CHAR_PX, _LABEL_PX = 6.6, 12  # of the labels, for keeping them apart
_LATENCY_TICKS = (1, 1.5, 2, 3, 4, 5, 7)
_RECALL_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
# blue, orange, green, purple, red, grey: (on light, on dark); beyond that they come again dashed
_COLOURS = (
    *(("#1f5fc4", "#7db1ff"), ("#c2500a", "#ffa263"), ("#0b7a55", "#4fd3a4")),
    *(("#7a3fc0", "#c59bff"), ("#b3263f", "#ff8b9b"), ("#4d5a68", "#aab6c3")),
)
_STYLE = """text{font:12px system-ui,sans-serif;fill:#1c2430}.title{font-size:16px;font-weight:600}
.soft{fill:#566273}.paper{fill:#ffffff}.grid{stroke:#dfe4ea}.target{stroke:#566273;stroke-dasharray:6 4}
.line{fill:none;stroke-width:2}.again{stroke-dasharray:3 3}.error{stroke-width:1;opacity:.45}
.now{fill:none;stroke-width:2}
.label{paint-order:stroke;stroke:#ffffff;stroke-width:3px;stroke-linejoin:round}
@media (prefers-color-scheme:dark){text{fill:#e8edf3}.soft{fill:#a4b0be}.paper{fill:#12171e}.grid{stroke:#2b333d}
.target{stroke:#a4b0be}.label{stroke:#12171e}}"""

Box = tuple[float, float, float, float]


def plot(title: str, subtitle: str, results: Sequence[GraphResult], present_ef: int, target: float) -> str:
    """The whole file. The present setting (results[0] with present_ef) has a ring around it."""
    points = [point for graph in results for point in graph.points]
    x = _latency_scale(points)
    y = _recall_scale(points, target)
    taken = [_around(x(point.p50_ms), y(point.recall)) for point in points]
    parts = [
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        _text(_LEFT, 30, title, "title"),
        _text(_LEFT, 50, subtitle, "soft"),
        *_axes(x, y, points),
        *_legend(results, taken),
        *_target_line(y, target, taken),
        *(part for number, graph in enumerate(results) for part in _graph(number, graph, x, y)),
        _ring(x, y, next(point for point in results[0].points if point.ef == present_ef)),
        *(part for number, graph in enumerate(results) for part in _labels(number, graph, x, y, taken)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img">\n<title>{html.escape(title)}</title>\n<style>{_STYLE}\n{_colours()}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _colours() -> str:
    light = "".join(f".s{n}{{stroke:{a}}}.f{n}{{fill:{a}}}" for n, (a, _) in enumerate(_COLOURS))
    dark = "".join(f".s{n}{{stroke:{b}}}.f{n}{{fill:{b}}}" for n, (_, b) in enumerate(_COLOURS))
    return f"{light}\n@media (prefers-color-scheme:dark){{{dark}}}"


def _linear(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _latency_scale(points: Sequence[Point]) -> Callable[[float], float]:
    """Logarithmic, as ef is chosen by doubling."""
    times = [point.p50_ms for point in points]
    scale = _linear(math.log(min(times) / 1.15), math.log(max(times) * 1.15), _LEFT, _RIGHT)
    return lambda value: scale(math.log(value))


def _recall_scale(points: Sequence[Point], target: float) -> Callable[[float], float]:
    """Logarithmic in what is missed: from 0.98 to 0.99 is as far as from 0.8 to 0.9. The top is 1."""
    missed = [1 - value for value in (target, *(point.recall for point in points)) if value < 1]
    least = min(0.005, max(0.00005, min(missed, default=0.005) / 1.5))
    most = max((*missed, 0.02)) * 1.3
    scale = _linear(-math.log(min(1.0, most)), -math.log(least), _BOTTOM, _TOP)
    return lambda value: scale(-math.log(max(1 - value, least)))


def _axes(x: Callable[[float], float], y: Callable[[float], float], points: Sequence[Point]) -> Iterator[str]:
    for value in (*_RECALL_TICKS, 1.0):
        at = y(value)
        if value == 1.0 or _TOP + _LABEL_PX < at <= _BOTTOM:
            yield f'<path class="grid" d="M{_LEFT} {at:.1f}H{_RIGHT}"/>'
            yield _text(_LEFT - 8, at + 4, f"{value:g}", "soft", "end")
    times = [point.p50_ms for point in points]
    powers = range(math.floor(math.log10(min(times))) - 1, math.ceil(math.log10(max(times))) + 1)
    for power, digit in product(powers, _LATENCY_TICKS):
        value = digit * 10.0**power
        if _LEFT <= x(value) <= _RIGHT:
            yield f'<path class="grid" d="M{x(value):.1f} {_TOP}V{_BOTTOM}"/>'
            yield _text(x(value), _BOTTOM + 18, f"{value:g}", "soft", "middle")
    yield _text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, "p50 of one query in the shard, ms (logarithmic)", "", "middle")
    yield f'<text transform="translate(22 {(_TOP + _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">recall@10</text>'


def _target_line(y: Callable[[float], float], target: float, taken: list[Box]) -> Iterator[str]:
    yield f'<path class="target" d="M{_LEFT} {y(target):.1f}H{_RIGHT}"/>'
    label = f"target {target:g}"
    width = len(label) * _CHAR_PX
    taken.append((_RIGHT - width, y(target) - _LABEL_PX - 4, _RIGHT, y(target)))
    yield _text(_RIGHT, y(target) - 5, label, "soft", "end")


def _legend(results: Sequence[GraphResult], taken: list[Box]) -> Iterator[str]:
    """At the lower right, where such curves never come."""
    names = [f"M {graph.m}, ef_construction {graph.ef_construction}" for graph in results]
    names[0] += ", the present graph"
    left = _RIGHT - 8 - max(map(len, names)) * _CHAR_PX
    for number, name in enumerate(names):
        base = _BOTTOM - 12 - (len(names) - 1 - number) * _ROW_PX
        taken.append((left - 28, base - _LABEL_PX, _RIGHT, base + 4))
        yield f'<path class="line {_series(number)}" d="M{left - 26:.0f} {base - 4}h18"/>'
        yield _text(left, base, name, "label")


def _graph(number: int, graph: GraphResult, x: Callable[[float], float], y: Callable[[float], float]) -> Iterator[str]:
    places = " ".join(f"{x(point.p50_ms):.1f},{y(point.recall):.1f}" for point in graph.points)
    yield f'<polyline class="line {_series(number)}" points="{places}"/>'
    for point in graph.points:
        at = x(point.p50_ms)
        low, high = (min(float(_BOTTOM), y(value)) for value in point.interval)
        yield f'<path class="error {_series(number)}" d="M{at:.1f} {low:.1f}V{high:.1f}"/>'
        told = f"ef_search {point.ef}: recall {point.recall:.4f}, p50 {point.p50_ms:.3f} ms, p99 {point.p99_ms:.3f} ms"
        yield (
            f'<circle class="f{number % len(_COLOURS)}" cx="{at:.1f}" cy="{y(point.recall):.1f}" r="4">'
            f"<title>M {graph.m}, ef_construction {graph.ef_construction}, {told}</title></circle>"
        )


def _ring(x: Callable[[float], float], y: Callable[[float], float], present: Point) -> str:
    return f'<circle class="now s0" cx="{x(present.p50_ms):.1f}" cy="{y(present.recall):.1f}" r="8"/>'


def _labels(
    number: int, graph: GraphResult, x: Callable[[float], float], y: Callable[[float], float], taken: list[Box]
) -> Iterator[str]:
    """The ef of each point, where there is room for it; all have theirs in the circle's title as well."""
    for point in graph.points:
        at, height, half = x(point.p50_ms), y(point.recall), len(str(point.ef)) * _CHAR_PX / 2
        places = ((0, -9), (0, 20), (half + 10, 14), (-half - 10, -6), (half + 12, 4), (-half - 12, 4))
        for right, down in places if number % 2 == 0 else (places[1], places[0], *places[2:]):
            middle, base = at + right, height + down
            box = (middle - half, base - _LABEL_PX + 2, middle + half, base + 1)
            inside = box[0] > _LEFT and box[2] < _RIGHT and box[1] > _TOP - 14 and box[3] < _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield _text(middle, base, str(point.ef), f"label f{number % len(_COLOURS)}", "middle")
                break


def _around(at: float, height: float) -> Box:
    return at - 5, height - 5, at + 5, height + 5


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _series(number: int) -> str:
    return f"s{number % len(_COLOURS)}" + (" again" if number >= len(_COLOURS) else "")


def _text(at: float, base: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{at:.1f}" y="{base:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
