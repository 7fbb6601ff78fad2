"""From where events are read again."""

from __future__ import annotations

import pytest

from app.cli.main import main
from app.embed.rewind import Step, earlier, plan_rewind
from schemas.errors import BadRequest

SPANS = {0: (10, 50), 1: (0, 20), 2: (0, 0)}
COMMITTED = {0: 40, 1: 20}


def test_only_what_goes_back_is_a_step_and_counts_its_events() -> None:
    steps = plan_rewind({0: 10, 1: 20, 2: 0}, COMMITTED, SPANS)
    assert steps == [Step(0, 40, 10)]
    assert steps[0].events == 30


@pytest.mark.parametrize("start", [0, 9, 41, 50])
def test_an_offset_that_is_not_held_or_not_yet_read_is_an_error_that_says_what_can_be(start: int) -> None:
    with pytest.raises(
        BadRequest, match=f"0:{start} is out of range: .* to 10 at the earliest and to 40 at the latest"
    ):
        plan_rewind({0: start}, COMMITTED, SPANS)


def test_a_partition_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(BadRequest, match="no partition 7; there are 0, 1, 2"):
        plan_rewind({7: 0}, COMMITTED, SPANS)


def test_a_time_after_what_was_read_leaves_the_workers_where_they_are() -> None:
    assert earlier({0: 45, 1: 5, 2: 0}, COMMITTED, SPANS) == {0: 40, 1: 5, 2: 0}
    assert plan_rewind(earlier({0: 45, 1: 5, 2: 0}, COMMITTED, SPANS), COMMITTED, SPANS) == [Step(1, 20, 5)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give one of"),
        (("--all", "--to-time", "1h"), "give one of"),
        (("--to-offset", "41"), "is not P:O"),
        (("--to-offset", "0:1,0:2"), "each partition once"),
        (("--index",), "replica-0/shard-<partition>.sqlite"),
        (("--index", "--all", "--yes"), "Nothing was changed"),
    ],
)
def test_wrong_usage_says_what_is_wanted(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rewind", *arguments])
    assert caught.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())
