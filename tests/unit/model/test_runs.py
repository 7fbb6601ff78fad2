from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.runs import Run, TokenBudget, Tokens, plan, plan_end

CALL_TOKENS = 64


def tokens_of(lengths: list[int]) -> list[Tokens]:
    return [Tokens(index, [7] * length) for index, length in enumerate(sorted(lengths, reverse=True))]


def cost(runs: list[Run]) -> int:
    return sum(run.padded_tokens + CALL_TOKENS for run in runs)


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=60),
    st.integers(1, 2048),
    st.sampled_from([1, 8, 16]),
)
def test_every_text_is_in_one_run_that_has_room_for_it(lengths: list[int], budget: int, step: int) -> None:
    texts = tokens_of(lengths)
    runs = plan(texts, budget, step)
    assert [text for run in runs for text in run.texts] == texts
    for run in runs:
        assert run.length % step == 0
        assert len(run.texts) <= run.rows
        assert all(len(text.ids) <= run.length for text in run.texts)
        assert run.padded_tokens <= budget or len(run.texts) == 1


@given(st.lists(st.integers(1, 100), min_size=1, max_size=7))
def test_no_other_grouping_of_neighbouring_lengths_costs_less(lengths: list[int]) -> None:
    """Texts of one padded length stay together: what parting them would save in row counts is not looked for."""
    texts = tokens_of(lengths)
    padded = [-(-len(text.ids) // 16) for text in texts]
    parts = [(False, True) if before != after else (False,) for before, after in pairwise(padded)]

    def grouped(cuts: tuple[bool, ...]) -> list[Run]:
        runs, first = [], 0
        for at, cut in enumerate((*cuts, True), start=1):
            if cut:
                rows = next(rows for rows in (1, 2, 3, 4, 6, 8) if rows >= at - first)
                runs.append(Run(texts[first:at], -(-len(texts[first].ids) // 16) * 16, rows))
                first = at
        return runs

    possible = [grouped(cuts) for cuts in product(*parts)]
    assert cost(plan(texts, 10**6, 16)) == min(map(cost, possible))


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=60),
    st.integers(1, 2048),
    st.integers(1, 4),
)
def test_the_end_of_a_batch_is_whole_and_within_the_budget(lengths: list[int], budget: int, lanes: int) -> None:
    texts = tokens_of(lengths)
    runs = plan_end(texts, budget, 16, lanes)
    assert sorted(text.index for run in runs for text in run.texts) == list(range(len(lengths)))
    assert all(run.padded_tokens <= budget or len(run.texts) == 1 for run in runs)


@pytest.mark.parametrize("count", [4, 8, 12, 24, 48])
def test_two_lanes_share_the_end_of_a_batch(count: int) -> None:
    """With runs of the whole budget of 2,048 tokens one would have them all, or a run more than the other."""
    runs = plan_end(tokens_of([128] * count), 2048, 16, lanes=2)
    assert len(runs) % 2 == 0
    assert len({run.rows for run in runs}) == 1


def test_one_lane_has_runs_of_the_whole_budget() -> None:
    texts = tokens_of([128] * 24)
    assert plan_end(texts, 2048, 16, lanes=1) == plan(texts, 2048, 16)


def test_a_text_longer_than_the_budget_runs_alone() -> None:
    assert [(len(run.texts), run.length) for run in plan(tokens_of([100, 100]), 64, 16)] == [(1, 112), (1, 112)]


def test_no_texts_are_no_runs() -> None:
    assert plan([], 2048, 16) == []


def test_padding_is_masked() -> None:
    ids, mask = Run([Tokens(0, [5, 6, 7]), Tokens(1, [8])], 4, 3).arrays(pad_id=9)
    assert ids.tolist() == [[5, 6, 7, 9], [8, 9, 9, 9], [9, 9, 9, 9]]
    assert mask[:2].tolist() == [[True, True, True, False], [True, False, False, False]]
    assert mask[2].sum() == 1  # a row without any token would have no finite mean


def test_runs_have_few_shapes() -> None:
    """Each new one costs as much as a whole run."""
    shapes = {
        (run.rows, run.length)
        for count in range(1, 200)
        for run in plan(tokens_of([20 + at % 11 for at in range(count)]), 2048, 16)
    }
    assert len(shapes) <= 15


def test_the_budget_halves_when_memory_runs_out_and_comes_back_slowly(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    budget = TokenBudget(2048, lambda: now[0])
    budget.ran_out(2048)
    budget.ran_out(1000)
    assert budget.tokens == 500
    now[0] += 29
    assert budget.tokens == 500
    seen = []
    for _ in range(8):
        now[0] += 30
        seen.append(budget.tokens)
    assert seen[0] == 626
    assert seen == sorted(seen)
    assert seen[-1] == 2048
    assert [record.levelname for record in caplog.records].count("WARNING") == 2


def test_the_budget_never_falls_to_nothing() -> None:
    budget = TokenBudget(64)
    for _ in range(20):
        budget.ran_out(1)
    assert budget.tokens >= 1
