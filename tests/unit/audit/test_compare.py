"""What is called wrong with a document, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.audit.compare import KINDS, Finding, claims_too_much, is_lost, shard_drift
from app.audit.fold import ChangesFold, LastChange, Logged
from app.audit.partition import Suspects
from app.cli.audit_display import AuditProgress
from app.shard.held_rows import ShardRow
from tests.unit.embed.parts import event, raw_event


def logged(source_offset: int, *, version: int | None = None, deleted: bool = False, content: bytes = b"c") -> Logged:
    return Logged(version, source_offset, deleted, 100 + source_offset, None if deleted else content, b"d", (b"v",))


def row(source_offset: int, *, version: int | None = None, deleted: bool = False, vectors: bytes = b"v") -> ShardRow:
    return ShardRow("a", version, source_offset, deleted, None if deleted else b"c", 1, b"d", vectors)


@pytest.mark.parametrize(
    ("topic", "shard", "kind"),
    [
        (logged(5), row(5), None),
        (logged(5), None, "missing"),
        (logged(5, deleted=True), None, "missing"),
        (None, None, None),
        (logged(5), row(4), "stale"),
        (logged(5), row(4, deleted=True), "stale"),
        (logged(4, version=2), row(5, version=1), "stale"),
        (logged(5), row(6), "ahead"),
        (logged(6, version=1), row(5, version=2), "ahead"),
        (logged(5), row(5, vectors=b"w"), "mismatched"),
        (logged(5, content=b"x"), row(5), "mismatched"),
        (logged(5), row(5, deleted=True), "mismatched"),
        (logged(5, version=None), row(5, version=3), None),  # the log was compacted, the shard knows more
        (None, row(5), "ghost"),
        (None, row(5, deleted=True), None),
        (logged(5, deleted=True), row(4), "ghost"),
        (logged(5, deleted=True), row(9), "ghost"),
        (logged(5, deleted=True), row(4, deleted=True), "stale"),
        (logged(5, deleted=True), row(5, deleted=True), None),
        (logged(5, deleted=True), row(9, deleted=True), None),
    ],
)
def test_a_row_is_what_its_record_says_or_is_wrong_in_one_way(
    topic: Logged | None, shard: ShardRow | None, kind: str | None
) -> None:
    assert shard_drift(topic, shard, 0) == kind
    assert kind is None or kind in KINDS


def change(offset: int, *, version: int | None = None, deleted: bool = False, content: bytes = b"new") -> LastChange:
    return LastChange(version, offset, offset, deleted, content, 0)


@pytest.mark.parametrize(
    ("last", "log", "lost"),
    [
        (change(9), None, True),
        (change(9), logged(5), True),
        (change(9), logged(5, deleted=True), True),
        (change(11), None, False),  # the log does not claim to be past it
        (change(9), logged(9), False),
        (change(9), logged(10), False),
        (change(9, content=b"c"), logged(5), False),  # it changes nothing
        (change(9, content=b"c"), logged(5, deleted=True), True),
        (change(9, version=1), logged(5, version=2), False),  # stale
        (change(9, deleted=True), logged(5), True),
        (change(9, deleted=True), logged(5, deleted=True), False),
        (change(9, deleted=True), None, False),  # the tombstone is forgotten
    ],
)
def test_a_change_is_lost_only_if_it_should_be_in_the_log(last: LastChange, log: Logged | None, lost: bool) -> None:
    assert is_lost(last, log, through=10) is lost


@pytest.mark.parametrize(
    ("claimed", "known", "too_much"),
    [(5, 5, False), (5, 9, False), (5, 4, True), (5, None, False), (20, None, True), (20, 20, True)],
)
def test_redis_claims_too_much_if_no_topic_has_such_a_change(claimed: int, known: int | None, too_much: bool) -> None:
    assert claims_too_much(claimed, known, end_offset=20) is too_much


def test_the_last_change_counts_by_version_then_by_offset_and_what_is_no_change_does_not() -> None:
    fold = ChangesFold(max_text_bytes=1000)
    fold.take([event(0, "a", "one", version=5), event(1, "b", "one"), event(2, "a", "late", version=3)])
    fold.take([event(4, "b", None), raw_event(6, b"b", b"{"), event(7, "c", "x" * 2000)])

    found = {id: (state.offset, state.version, state.deleted) for id, state in fold.states.items()}
    assert found == {"a": (0, 5, False), "b": (4, None, True)}
    assert fold.ends == {"a": 2, "b": 6, "c": 7}


def test_suspects_are_looked_at_again_where_they_were_found() -> None:
    make: Callable[..., Finding] = lambda kind, replica, id: Finding(kind, 0, replica, id, "", "")  # noqa: E731
    suspects = Suspects.of([make("stale", "r", "a"), make("lost", None, "b"), make("redis_ahead", None, "c")])
    assert (suspects.shards, suspects.lost, suspects.remembered) == ({"r": {"a"}}, {"b"}, {"c"})
    assert suspects.ids == {"a", "b", "c"}


def test_without_a_terminal_a_long_step_is_told_in_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditProgress() as progress:
        progress.tell("reading x", 1, 2000)
        now = progress._next
        monkeypatch.setattr("app.cli.audit_display.time.monotonic", lambda: now)
        progress.tell("reading x", 1500, 2000)
        progress.tell("reading x", 1600, 2000)
    assert capsys.readouterr().err == "reading x: 1,500 of 2,000\n"
