"""`headrace dlq list|show|export` on librdkafka's in-process broker."""

from __future__ import annotations

import io
from pathlib import Path

import orjson
import pytest

from app.kafka.producer import Record
from producers.changes import Change, Fields
from producers.jsonl import line_parser, read_jsonl
from tests.unit.dlq.post import NOW_MS, TRACE, TRACEPARENT, Post


def test_a_letter_that_is_there_twice_is_listed_once(post: Post) -> None:
    source = post.change(b"a", b"{")
    place = post.letter(source, b"a", b"{")
    post.letter(source, b"a", b"{")
    post.producer.deliver([_foreign(post)]).result(20)
    (row,) = post.listed()
    assert (row["place"], row["key"], row["offset"]) == (place, "a", source.offset)
    assert "1 letters are there twice" in post.run("list")[2]
    assert "1 records" in post.run("list")[2]


def test_filters_choose(post: Post) -> None:
    post.dead(b"a", b"{", timestamp_ms=NOW_MS - 3 * 3_600_000)
    post.dead(b"b", b"{}", stage="embed", error_class="UnembeddableText")
    post.dead(b"c", b"{}", partition=2, stage="embed", error_class="Rejected")
    expected = {
        "": "abc",
        "--reason unembeddabletext": "b",
        "--class InvalidChange --class Rejected": "ac",
        "--stage embed": "bc",
        "--id a --id c": "ac",
        "--partition 2": "c",
        "--since 2h": "bc",
        "--until 2h": "a",
        "--since 1970-01-01T00:00:00Z --limit 2": "ab",
        "--stage embed --id a": "",
    }
    chosen = {arguments: "".join(row["key"] for row in post.listed(*arguments.split())) for arguments in expected}
    assert chosen == expected


def test_counts_are_by_class_and_stage_the_most_first(post: Post) -> None:
    for number in range(3):
        post.dead(b"%d" % number, b"{")
    post.dead(b"x", b"{}", stage="embed", error_class="Rejected")
    lines = post.run("list", "--counts", "--json")[1].splitlines()
    assert [tuple(orjson.loads(line).values()) for line in lines] == [
        ("InvalidChange", "decode", 3),
        ("Rejected", "embed", 1),
    ]
    table = [line.split() for line in post.run("list", "--counts")[1].splitlines()]
    assert table == [["count", "class", "stage"], ["3", "InvalidChange", "decode"], ["1", "Rejected", "embed"]]


def test_the_table_shows_where_when_and_why_and_no_control_characters(post: Post) -> None:
    place = post.dead(b"\x1b[31ma", b"{", message="bad \x1b]0;title\x07")
    out = post.run("list")[1]
    header, row = out.splitlines()
    assert header.split() == ["letter", "set", "aside", "source", "stage", "class", "message", "key"]
    assert row.startswith(place)
    assert f"{post.settings.changes_topic} 0:0" in row
    assert "\x1b" not in out
    assert "\\x1b[31ma" in row


def test_nothing_found_is_said_and_a_missing_topic_names_the_command_to_see_it(post: Post) -> None:
    status, out, err = post.run("list")
    assert (status, out) == (1, "")
    assert "headrace topics describe" in err
    post.dead(b"a", b"{")
    assert post.run("list", "--stage", "index") == (0, "", "no dead letters\n")


def test_show_tells_everything_and_indents_json_with_its_numbers_as_they_are(post: Post) -> None:
    value = b'{"id":"a","version":1180591620717411303424}'
    place = post.dead(b"a", value, [TRACEPARENT, ("raw", b"\xff\x00"), ("none", None)], message="too large")
    status, out, _ = post.run("show", place)
    assert status == 0
    for expected in (
        TRACE,
        "raw = ff00 (hex: not UTF-8)",
        "none = null",
        '  "version": 1180591620717411303424',
        "too large",
    ):
        assert expected in out
    assert "__connect" not in out


def test_show_knows_text_hex_and_null_and_cuts(post: Post) -> None:
    expected = {
        b"plain \x1b text": "plain \\x1b text",
        b"\xff\xfe\x00\x01\x02": "ff fe000102",
        None: "null: a delete",
        b"[" * 5000: "1,000 more characters: --full shows them",
    }
    for value, told in expected.items():
        assert told in post.run("show", post.dead(b"a", value))[1]


def test_show_in_full_does_not_cut(post: Post) -> None:
    assert "x" * 9000 in post.run("show", "--full", post.dead(b"a", b"x" * 9000))[1]


def test_a_place_without_a_letter_says_what_there_is(post: Post) -> None:
    post.dead(b"a", b"{")
    status, _, err = post.run("show", "0:7")
    assert status == 1
    assert "no dead letter at 0:7" in err
    assert "has 0:0 to 0:0" in err
    assert post.run("show", "seven")[0] == 2


def test_what_is_exported_is_as_it_came_and_once_mended_can_be_published(post: Post, tmp_path: Path) -> None:
    post.dead(b"a", b'{"id":"a","text":"x","colour":"red"}', [TRACEPARENT])
    post.dead(b"\xff", b"\xff\x00", [("raw", b"\xfe")], partition=1)
    post.dead(b"gone", None)
    file = tmp_path / "letters.jsonl"
    status, out, err = post.run("export", "-o", str(file))
    assert (status, out, err) == (0, "", f"3 letters in {file}\n")
    letters = {row.get("key"): row for row in map(orjson.loads, file.read_bytes().splitlines())}
    assert letters[None]["key_base64"] == "/w=="
    assert letters[None]["value_base64"] == "/wA="
    assert letters[None]["headers"] == [{"name": "raw", "value_base64": "/g=="}]
    assert letters["gone"]["value"] is None
    assert letters["a"]["trace_id"] == TRACE
    mended = orjson.loads(letters["a"]["value"])
    del mended["colour"]
    parse = line_parser(Fields(), mapped=False)
    (item,) = read_jsonl(io.BytesIO(orjson.dumps(mended)), "mended", parse, lambda _: None)
    assert isinstance(item, Change)
    assert (item.change.id, item.change.text) == ("a", "x")


def test_an_export_goes_to_stdout_and_over_no_file(post: Post, tmp_path: Path) -> None:
    post.dead(b"a", b"{")
    assert orjson.loads(post.run("export")[1])["value"] == "{"
    file = tmp_path / "kept.jsonl"
    file.write_text("kept")
    status, _, err = post.run("export", "-o", str(file))
    assert (status, file.read_text()) == (1, "kept")
    assert "exists" in err


@pytest.mark.parametrize("given", ["yesterday", "2026-01-01T00:00:00", "5 h", "99999999999d"])
def test_a_time_that_is_none_is_wrong_usage_that_names_both_forms(post: Post, given: str) -> None:
    status, _, err = post.run("list", "--since", given)
    assert status == 2
    assert "RFC 3339" in err
    assert "2h" in err


def test_without_kafka_one_line_says_so(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.kafka.reading.TIMEOUT_S", 0.5)
    status, _, err = post.run("list", "--brokers", "127.0.0.1:1")
    assert status == 1
    assert err.startswith("headrace: no Kafka at 127.0.0.1:1 (HEADRACE_BROKERS)")


def _foreign(post: Post) -> Record:
    return Record(post.settings.dlq_topic, b"k", b"v", 1)
