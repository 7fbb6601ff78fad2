"""`headrace dlq replay` on librdkafka's in-process broker: none twice, none over something newer."""

from __future__ import annotations

from typing import Any

import pytest

from app.dlq import replay
from app.kafka.producer import Position, Record, RecordProducer
from tests.unit.dlq.post import NOW_MS, TRACEPARENT, Post
from tests.unit.producers.broker import Published, read_topic

DAY_MS = 24 * 3_600_000


def replayed(post: Post, count: int) -> list[Published]:
    """What was added to the changes topic since the post's own changes, of which there are `count`."""
    added = [item for item in read_topic(post.settings, count) if "headrace-dlq-replays" in item.headers]
    return sorted(added, key=lambda item: (item.partition, item.offset))


def test_a_letter_goes_back_as_it_came_into_its_partition_and_says_what_it_repeats(post: Post) -> None:
    post.dead(b"a", b'{"x":1}', [TRACEPARENT, ("n", None)], partition=3)
    status, out, _ = post.run("replay", "--all", "--yes")
    assert (status, out) == (0, "1 to replay\n1 replayed\n")
    (event,) = replayed(post, 2)
    assert (event.partition, event.key, event.value) == (3, b"a", b'{"x":1}')
    assert event.headers == {
        "traceparent": TRACEPARENT[1],
        "n": None,
        "headrace-dlq-replays": b"1",
        "headrace-dlq-source": b"3:0",
        "headrace-dlq-place": b"0",
    }


def test_run_again_nothing_is_replayed_twice_not_even_by_force(post: Post) -> None:
    place = post.dead(b"a", b"{")
    post.run("replay", "--all", "--yes")
    status, out, _ = post.run("replay", "--all", "--yes", "--force")
    assert status == 0
    assert out.splitlines() == [
        f"{place}  0:0  already replayed: an event that repeats it is in the topic",
        "0 to replay, 1 already replayed",
    ]
    assert len(replayed(post, 2)) == 1


def test_a_letter_whose_document_has_changed_since_is_superseded_unless_forced(post: Post) -> None:
    old = post.dead(b"a", b"old")
    post.dead(b"b", b"of another document")
    post.change(b"a", b"new")
    status, out, _ = post.run("replay", "--all", "--yes")
    assert status == 0
    assert f"{old}  0:0  superseded: a later change of the document is at 0:2" in out
    assert out.endswith("1 replayed, 1 superseded\n")
    assert [item.value for item in replayed(post, 4)] == [b"of another document"]
    assert post.run("replay", "--id", "a", "--yes", "--force")[1] == "1 to replay\n1 replayed\n"
    assert [item.value for item in replayed(post, 5)] == [b"of another document", b"old"]


def test_of_two_letters_of_one_document_only_the_later_goes_back(post: Post) -> None:
    post.dead(b"a", b"one")
    post.dead(b"a", b"two")
    assert "1 replayed, 1 superseded" in post.run("replay", "--all", "--yes")[1]
    assert [item.value for item in replayed(post, 3)] == [b"two"]
    assert "0 to replay, 1 already replayed, 1 superseded" in post.run("replay", "--all", "--yes")[1]


def test_a_change_that_comes_between_the_plan_and_the_replay_is_seen(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.dead(b"a", b"old")

    def meanwhile(*_: Any, **__: Any) -> bool:
        post.change(b"a", b"new")
        return True

    monkeypatch.setattr("click.confirm", meanwhile)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert "0 replayed, 1 superseded" in post.run("replay", "--all")[1]
    assert replayed(post, 2) == []


def test_an_event_that_fails_again_and_again_is_refused_in_the_end(post: Post) -> None:
    place = post.dead(b"a", b"{")
    for count in (1, 2, 3):
        assert post.run("replay", "--all", "--yes")[0] == 0, count
        event = replayed(post, 1 + count)[-1]
        assert event.headers["headrace-dlq-replays"] == b"%d" % count
        place = _dead_again(post, event)
    status, out, _ = post.run("replay", "--all", "--yes")
    assert status == 1
    assert f"{place}  0:3  refused: it was replayed 3 times" in out
    assert post.run("replay", "--all", "--yes", "--most", "4")[0] == 0
    assert [item.headers["headrace-dlq-source"] for item in replayed(post, 5)] == [b"0:0", b"0:1", b"0:2", b"0:3"]


def test_what_can_do_no_good_is_refused_with_the_reason(post: Post) -> None:
    changes, vectors = post.settings.changes_topic, post.settings.vectors_topic
    post.change(b"somebody else", b"{}")
    reasons = {
        post.letter(Position(vectors, 0, 0), b"a", b"HRV1", stage="index"): "a damaged vector record",
        post.letter(Position("other.changes", 0, 0), b"a", b"{"): "it comes from other.changes",
        post.letter(Position(changes, 0, 1), None, b"{"): "it has no key",
        post.letter(Position(changes, 0, 99), b"a", b"{"): f"{changes} was made again since",
        post.letter(Position(changes, 99, 0), b"a", b"{"): f"{changes} was made again since",
        post.letter(Position(changes, 0, 0), b"a", b"{"): f"{changes} was made again since",
    }
    status, out, _ = post.run("replay", "--all", "--yes", "--force")
    assert status == 1
    lines = {line.split()[0]: line for line in out.splitlines()[:-1]}
    assert [place for place, reason in reasons.items() if f"refused: {reason}" not in lines[place]] == []
    assert "headrace rewind" in out
    assert out.endswith("0 to replay, 6 refused\n")
    assert replayed(post, 1) == []


def test_a_letter_older_than_deletes_are_kept_is_not_replayed_on_its_own(post: Post) -> None:
    post.dead(b"a", b"{", timestamp_ms=NOW_MS - 8 * DAY_MS)
    assert "0 to replay, 1 unsure" in post.run("replay", "--all", "--yes")[1]
    assert "1 replayed" in post.run("replay", "--all", "--yes", "--force")[1]


def test_a_dry_run_writes_nothing(post: Post) -> None:
    post.dead(b"a", b"{")
    assert post.run("replay", "--all", "--dry-run") == (0, "1 to replay\n", "")
    assert replayed(post, 1) == []


def test_without_a_choice_or_somebody_to_ask_it_is_wrong_usage(post: Post) -> None:
    post.dead(b"a", b"{")
    assert "or give --all" in post.run("replay", "--yes")[2]
    status, _, err = post.run("replay", "--all")
    assert status == 2
    assert "--yes or --dry-run" in err
    assert replayed(post, 1) == []


def test_who_says_no_is_taken_at_his_word(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    post.dead(b"a", b"{")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    assert post.run("replay", "--all")[0] == 130
    assert replayed(post, 1) == []


def test_ctrl_c_half_way_says_how_far_it_came_and_the_rest_goes_back_later(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        post.dead(b"%d" % number, b"{")
    monkeypatch.setattr(replay, "ROUND", 2)
    real, sent = RecordProducer.produce, list[Record]()

    def interrupted(self: RecordProducer, record: Record, delivered: Any) -> None:
        sent.append(record)
        if len(sent) == 4:
            raise KeyboardInterrupt
        real(self, record, delivered)

    monkeypatch.setattr(RecordProducer, "produce", interrupted)
    status, out, err = post.run("replay", "--all", "--yes")
    monkeypatch.setattr(RecordProducer, "produce", real)
    assert status == 130
    assert out.endswith("\n3 replayed\n")
    assert "2 letters were not reached: run it again" in err
    assert "2 replayed, 3 already replayed" in post.run("replay", "--all", "--yes")[1]
    assert [item.key for item in replayed(post, 10)] == [b"0", b"1", b"2", b"3", b"4"]


def test_an_event_that_kafka_does_not_take_is_told_and_the_others_go_back(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.dlq_replay.MOST_BYTES", 2000)
    large = post.dead(b"large", bytes(5000))
    post.dead(b"small", b"{")
    status, out, _ = post.run("replay", "--all", "--yes")
    assert status == 1
    assert f"{large}  0:0  failed: the record is larger than the topic {post.settings.changes_topic} allows" in out
    assert out.endswith("1 replayed, 1 failed\n")
    assert [item.key for item in replayed(post, 3)] == [b"small"]


def _dead_again(post: Post, event: Published) -> str:
    source = Position(post.settings.changes_topic, event.partition, event.offset)
    return post.letter(source, event.key, event.value, list(event.headers.items()))
