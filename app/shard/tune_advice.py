"""What follows from the measurements: which setting to choose, what it gains or costs, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.shard.tune import GraphResult, Point

# Another M means that every shard of every replica is built anew: not for what a repetition would not show
_WORTH_REBUILDING = 0.9  # of the p50
_MOST_EF = 4096
_MOST_M = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """One point of one graph."""

    graph: GraphResult
    point: Point


@dataclass(frozen=True, slots=True)
class Advice:
    """verdict: "keep", "change", or "none" where nothing reaches the target. environment: what to set, by variable.

    text: for people, a sentence or two in each.
    """

    verdict: str
    choice: Choice | None
    environment: dict[str, str]
    text: list[str]


def advise(results: Sequence[GraphResult], present_ef: int, target: float) -> Advice:
    """The cheapest that reaches the target, against the present setting: results[0] with present_ef."""
    present = Choice(results[0], next(point for point in results[0].points if point.ef == present_ef))
    choice = _cheapest(results, target)
    if choice is None:
        return Advice("none", None, {}, [_best_of(results, target), _what_to_try(results, present)])
    text = [_reaches(choice, target)]
    if choice == present:
        text.append("That is the present setting: keep it.")
    else:
        text.append(_against(choice, present))
    return Advice(
        "keep" if choice == present else "change",
        choice,
        {} if choice == present else _environment(choice, present),
        [*text, *_doubts(choice, target)],
    )


def _cheapest(results: Sequence[GraphResult], target: float) -> Choice | None:
    """Of each graph the least ef; another graph than the present one only where it is clearly faster."""
    reaching = [
        Choice(graph, point)
        for graph in results
        if (point := next((point for point in graph.points if point.recall >= target), None)) is not None
    ]
    if not reaching:
        return None
    fastest = min(reaching, key=lambda choice: choice.point.p50_ms)
    first = reaching[0]
    is_present = first.graph is results[0]
    return first if is_present and fastest.point.p50_ms > _WORTH_REBUILDING * first.point.p50_ms else fastest


def _environment(choice: Choice, present: Choice) -> dict[str, str]:
    values = {"HEADRACE_HNSW_EF_SEARCH": (choice.point.ef, present.point.ef)}
    values["HEADRACE_HNSW_M"] = (choice.graph.m, present.graph.m)
    values["HEADRACE_HNSW_EF_CONSTRUCTION"] = (choice.graph.ef_construction, present.graph.ef_construction)
    return {name: str(wanted) for name, (wanted, now) in values.items() if wanted != now}


def _reaches(choice: Choice, target: float) -> str:
    return (
        f"The cheapest that reaches recall@10 {target:g} is {_name(choice)}: "
        f"{_told(choice.point)}, p50 {choice.point.p50_ms:.2f} ms."
    )


def _against(choice: Choice, present: Choice) -> str:
    gain, error = choice.point.gain_over(present.point)
    time = choice.point.p50_ms / present.point.p50_ms - 1
    said = f"Against the present {_name(present)}: recall {gain:+.3f} ± {error:.3f}, p50 {time:+.0%}."
    if choice.graph is present.graph:
        return said + " It needs no more than a restart of the index workers."
    memory = choice.graph.bytes_per_chunk - present.graph.bytes_per_chunk
    return (
        f"{said} The graph takes {memory:+,.0f} bytes a chunk and {choice.graph.build_s or 0:.0f} s to build in one "
        "thread; after a restart with it every shard builds its own anew, and scans until then."
    )


def _doubts(choice: Choice, target: float) -> Iterator[str]:
    point = choice.point
    if point.interval[0] >= target:
        return
    sure = next((other for other in choice.graph.points if other.interval[0] >= target), None)
    more = (
        "no measured ef_search is above it with 95 % certainty"
        if sure is None
        else f"ef_search {sure.ef} is above it with 95 % certainty ({_told(sure)}, p50 {sure.p50_ms:.2f} ms)"
    )
    yield f"{len(point.recalls)} queries are too few to be sure that this reaches the target: {more}."


def _best_of(results: Sequence[GraphResult], target: float) -> str:
    best = max(
        (Choice(graph, point) for graph in results for point in graph.points),
        key=lambda choice: (choice.point.recall, -choice.point.p50_ms),
    )
    return (
        f"Nothing measured reaches recall@10 {target:g}. The best is {_name(best)}: {_told(best.point)}, "
        f"p50 {best.point.p50_ms:.2f} ms."
    )


def _what_to_try(results: Sequence[GraphResult], present: Choice) -> str:
    most = max(point.ef for graph in results for point in graph.points)
    m = max(graph.m for graph in results)
    ef_construction = max(graph.ef_construction for graph in results)
    wider = f"--ef {min(_MOST_EF, 2 * most)},{min(_MOST_EF, 4 * most)}" if most < _MOST_EF else ""
    denser = f"--m {min(_MOST_M, 2 * m)}" if m < _MOST_M else ""
    longer = f"--ef-construction {2 * ef_construction}" if ef_construction < _MOST_EF // 2 else ""
    options = " ".join(filter(None, (wider, denser, longer)))
    if not options:
        return "These are the largest values that make sense: lower the target."
    dead = f" {present.graph.dead_ratio:.0%} of the present graph are dead points; a rebuild removes them."
    return f"Try `headrace tune {options}`, or a lower --target." + (dead if present.graph.dead_ratio > 0.1 else "")


def _name(choice: Choice) -> str:
    graph = choice.graph
    return f"ef_search {choice.point.ef} (M {graph.m}, ef_construction {graph.ef_construction})"


def _told(point: Point) -> str:
    return f"{point.recall:.3f} ± {point.error:.3f}"
