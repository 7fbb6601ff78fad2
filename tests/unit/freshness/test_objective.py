"""What an objective makes of documents that met it and of those that did not."""

from __future__ import annotations

import pytest

from app.freshness.objective import WINDOWS_S, Objective, PerSecond


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_takes_just_as_long_as_it_may_is_in_time() -> None:
    objective = Objective(1000, 0.99)
    assert (objective.is_slow(1000), objective.is_slow(1000.1)) == (False, True)


def test_nothing_burns_where_nothing_came() -> None:
    assert Objective(1000, 0.99).burn(300) == 0


@pytest.mark.parametrize(("met", "missed", "burn"), [(99, 1, 1.0), (90, 10, 10.0), (0, 5, 100.0), (5, 0, 0.0)])
def test_a_burn_of_one_misses_just_what_may_be_missed(met: int, missed: int, burn: float) -> None:
    objective = Objective(1000, 0.99)
    objective.count(met, missed)
    assert objective.burn(300) == pytest.approx(burn)


def test_what_is_older_than_the_window_is_left_out_and_then_forgotten() -> None:
    clock = Clock()
    objective = Objective(1000, 0.9, clock)
    objective.count(0, 3)
    clock.now += 60
    objective.count(7, 0)
    assert objective.window(300) == (7, 3)
    clock.now += WINDOWS_S[0] - 30
    assert (objective.window(WINDOWS_S[0]), objective.window(WINDOWS_S[1])) == ((7, 0), (7, 3))
    clock.now += WINDOWS_S[1]
    objective.count(1, 0)
    assert objective.window(1e9) == (1, 0)


def test_so_many_a_second_are_let_through_and_the_next_second_as_many() -> None:
    clock = Clock()
    budget = PerSecond(2, clock)
    assert [budget.take() for _ in range(4)] == [True, True, False, False]
    clock.now += 0.99
    assert not budget.take()
    clock.now += 0.01
    assert [budget.take() for _ in range(3)] == [True, True, False]
    assert all(PerSecond(0, clock).take() for _ in range(1000))
