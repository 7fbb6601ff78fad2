"""What the staleness benchmark takes for true, on timelines written down by hand."""

from __future__ import annotations

from bench.staleness_truth import Judged, Ledger, Tally

DOC = "marker-1"


def ledger(*markers: tuple[int, float, float | None]) -> Ledger:
    made = Ledger()
    for version, sent_ms, confirmed_ms in markers:
        made.sent(DOC, version, sent_ms)
        if confirmed_ms is not None:
            made.confirmed(DOC, version, confirmed_ms)
    return made


def test_where_nothing_is_missing_all_that_is_reported_is_error() -> None:
    judged = ledger((1, 1000, 1002)).judge({DOC: 1}, asked_ms=1400, as_of_ms=1001, reported_ms=400)

    assert judged == Judged(reported_ms=400, true_ms=0, error_ms=400, lie_ms=0)


def test_the_oldest_missing_marker_is_the_truth() -> None:
    made = ledger((1, 1000, 1002), (2, 1050, 1052), (3, 1100, 1102))

    judged = made.judge({DOC: 1}, asked_ms=1500, as_of_ms=1000, reported_ms=510)

    assert judged == Judged(reported_ms=510, true_ms=460, error_ms=50, lie_ms=0)


def test_as_of_after_the_confirmation_of_a_missing_marker_is_a_lie() -> None:
    made = ledger((1, 1000, 1002), (2, 1050, 1052))

    judged = made.judge({DOC: 1}, asked_ms=1500, as_of_ms=1400, reported_ms=110)

    assert judged.lie_ms == 348
    assert judged.error_ms == -348


def test_a_lie_about_a_marker_that_was_confirmed_after_the_question_counts() -> None:
    made = ledger((1, 1498, 1503))

    judged = made.judge({}, asked_ms=1500, as_of_ms=1505, reported_ms=1)

    assert judged.lie_ms == 2


def test_any_report_between_sent_and_confirmed_is_right() -> None:
    made = ledger((1, 1000, 1400))

    assert made.judge({}, asked_ms=1500, as_of_ms=1200, reported_ms=310).error_ms == 0
    assert made.judge({}, asked_ms=1500, as_of_ms=900, reported_ms=610).error_ms == 100
    assert made.judge({}, asked_ms=1500, as_of_ms=1450, reported_ms=60).lie_ms == 50


def test_a_marker_that_kafka_never_confirmed_proves_no_lie_and_excuses_an_old_report() -> None:
    made = ledger((1, 1000, None))

    judged = made.judge({}, asked_ms=9000, as_of_ms=1000, reported_ms=8000)

    assert (judged.error_ms, judged.lie_ms) == (0, 0)


def test_a_marker_that_failed_is_no_part_of_the_truth() -> None:
    made = ledger((1, 1000, None))
    made.failed(DOC, 1)

    assert made.judge({}, asked_ms=1500, as_of_ms=1490, reported_ms=10).error_ms == 10


def test_a_later_version_shows_what_it_superseded_but_of_its_own_document_only() -> None:
    made = ledger((1, 1000, 1002), (3, 1100, 1102))
    made.sent("marker-2", 2, 1050)
    made.confirmed("marker-2", 2, 1052)

    judged = made.judge({DOC: 3}, asked_ms=1500, as_of_ms=1100, reported_ms=400)

    assert judged.lie_ms == 48


def test_a_marker_that_was_seen_and_is_gone_is_counted() -> None:
    made = ledger((1, 1000, 1002))
    made.judge({DOC: 1}, asked_ms=1500, as_of_ms=1000, reported_ms=500)

    made.judge({}, asked_ms=1600, as_of_ms=1000, reported_ms=600)

    assert made.went_back == 1


def test_a_phase_tells_lies_and_the_error_beyond_its_design() -> None:
    tally = Tally(1000, [Judged(900, 0, 900, 0), Judged(1050, 0, 1050, 0), Judged(10, 0, -30, 30)])

    told = tally.figures()

    assert (told["lies"], told["largest_lie_ms"]) == (1, 30)
    assert told["error_ms"]["max"] == 1050  # type: ignore[index]
    assert told["beyond_design_ms"]["max"] == 50  # type: ignore[index]
