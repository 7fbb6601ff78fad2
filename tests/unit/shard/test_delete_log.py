"""What an index worker tells gateways of the deletes it applied: each of them once, and how many were too many."""

from __future__ import annotations

from app.shard.apply import AppliedDocument
from app.shard.delete_log import MOST, DeleteLog
from tests.unit.shard.parts import headers


def applied(offset: int, kind: str = "delete", *, sent: bool = True) -> AppliedDocument:
    stages = {"produced": 5_000_000} if sent else {}
    return AppliedDocument("x", None, headers(kind, offset, stages=stages), 0, offset, None)


def test_deletes_are_told_once_with_their_times_and_nothing_else_is() -> None:
    log = DeleteLog()
    start = log.after("now")
    log.saw([applied(1), applied(2, "document"), applied(3, sent=False)], 7, 9_000_000, live=True)
    told = log.after(f"{start['life']}:{start['first']}")
    assert told["items"] == [{"shard": 7, "source_offset": 1, "sent_ms": 5, "invisible_ms": 9, "live": True}]
    assert log.after(f"{told['life']}:{told['first'] + 1}")["items"] == []
    assert log.after("now")["items"] == []


def test_who_knew_another_life_is_told_all_of_this_one() -> None:
    log = DeleteLog()
    log.saw([applied(1)], 0, 0, live=False)
    for asked in ("other:9", ":0", "", "x", f"{log.after('now')['life']}:-1"):
        assert [item["source_offset"] for item in log.after(asked)["items"]] == [1]


def test_who_asks_too_late_sees_from_the_first_number_what_is_gone() -> None:
    log = DeleteLog()
    log.saw([applied(offset) for offset in range(MOST + 5)], 0, 0, live=True)
    told = log.after(f"{log.after('now')['life']}:2")
    assert (told["first"], len(told["items"]), told["items"][0]["source_offset"]) == (5, MOST, 5)
