from __future__ import annotations

import io
from functools import partial

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers import jsonl
from producers.changes import Change, Fields, Item
from producers.jsonl import line_parser, read_jsonl
from tests.unit.producers.sources import advance, bad, good


def read(content: bytes, fields: Fields | None = None, *, mapped: bool = False) -> list[Item]:
    parse = line_parser(fields or Fields(), mapped=mapped)
    return list(read_jsonl(io.BytesIO(content), "in.jsonl", parse, advance))


def test_lines_are_document_changes() -> None:
    upsert, delete = good(read(b'{"id":"a","text":"one","metadata":{"n":1}}\n{"op":"delete","id":"b"}'))
    assert (upsert.id, upsert.text, upsert.metadata) == ("a", "one", {"n": 1})
    assert (delete.op, delete.id) == ("delete", "b")


def test_a_bad_line_is_named_by_file_and_line_and_the_rest_goes_on() -> None:
    items = read(
        b'{"id":"a","text":"x"}\n\nnot json\n{"id":"b"}\n{"id":"c","text":"y","colour":1}\n{"id":"d","text":""}\n'
    )
    assert [item.change.id for item in items if isinstance(item, Change)] == ["a", "d"]
    assert list(bad(items)) == ["in.jsonl:3", "in.jsonl:4", "in.jsonl:5"]
    assert "Invalid JSON" in bad(items)["in.jsonl:3"]
    assert "needs 'text'" in bad(items)["in.jsonl:4"]
    assert "colour" in bad(items)["in.jsonl:5"]


@pytest.mark.parametrize(
    "line", [b'{"id":"a","text":"\xff"}', b'{"id":"a","text":"\\ud800"}', b"[1]", b"null", b"\x00"]
)
def test_what_is_not_a_document_in_utf8_is_a_bad_line(line: bytes) -> None:
    assert list(bad(read(line + b'\n{"id":"b","text":"x"}'))) == ["in.jsonl:1"]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter() -> None:
    assert [change.id for change in good(read(b'\xef\xbb\xbf{"id":"a","text":"x"}\r\n{"id":"b","text":"y"}\r\n'))] == [
        "a",
        "b",
    ]


def test_a_unicode_line_separator_does_not_end_a_line() -> None:
    (change,) = good(read('{"id":"a","text":"one\u2028two\x85three"}'.encode()))
    assert change.text == "one\u2028two\x85three"


@given(st.text(max_size=200), st.text(min_size=1, max_size=50))
def test_any_text_of_any_script_arrives_unchanged(text: str, document_id: str) -> None:
    (change,) = good(read(orjson.dumps({"id": document_id, "text": text})))
    assert (change.id, change.text) == (document_id, text)


def test_a_document_of_one_megabyte_arrives_whole() -> None:
    text = "déjà vu " * 120_000
    (change,) = good(read(orjson.dumps({"id": "big", "text": text})))
    assert change.text == text


def test_an_endless_line_is_named_and_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_ITEM_BYTES", 32)
    items = read(b"x" * 100 + b'\n{"id":"b","text":"y"}\n')
    assert list(bad(items)) == ["in.jsonl:1"]
    assert [item.change.id for item in items if isinstance(item, Change)] == ["b"]


def test_named_fields_map_a_line_and_the_others_become_metadata() -> None:
    fields = Fields(id="key", text="body", title="name", version="rev", event_time="at")
    line = {
        "key": 7,
        "body": "text",
        "name": "T",
        "rev": 3,
        "at": "2026-01-31T12:00:00Z",
        "lang": "en",
        "n": 1.5,
        "z": None,
    }
    (change,) = good(read(orjson.dumps(line), fields, mapped=True))
    assert (change.id, change.text, change.title, change.version) == ("7", "text", "T", 3)
    assert change.event_time == 1769860800000
    assert change.metadata == {"lang": "en", "n": 1.5}


def test_only_the_chosen_metadata_is_taken() -> None:
    fields = Fields(metadata=("lang",))
    (change,) = good(read(b'{"id":"a","text":"x","lang":"en","nested":{"a":1}}', fields, mapped=True))
    assert change.metadata == {"lang": "en"}


def test_a_mapped_line_without_its_fields_says_which_one_is_missing() -> None:
    reasons = bad(read(b'{"a":1}\n{"id":"a"}\n[]', Fields(), mapped=True))
    assert list(reasons.values()) == [
        "no id: 'id' is absent or empty",
        "no text: 'text' is absent",
        "the line is not a JSON object",
    ]


def test_deletes_are_read_from_bare_ids_json_strings_and_documents() -> None:
    found = good(read('a b\n"{quoted}"\n{"id":"c","text":"x"}\nпривет\n'.encode(), Fields(delete=True)))
    assert [(change.op, change.id) for change in found] == [
        ("delete", "a b"),
        ("delete", "{quoted}"),
        ("delete", "c"),
        ("delete", "привет"),
    ]


def test_a_line_is_handed_on_before_the_next_one_is_there() -> None:
    class Pipe(io.BytesIO):
        lines = iter([b'{"id":"a","text":"x"}\n'])

        def readline(self, size: int | None = -1) -> bytes:
            return next(self.lines)  # asking for a second line would fail

    items = read_jsonl(Pipe(), "stdin", line_parser(Fields(), mapped=False), advance)
    assert isinstance(next(items), Change)


def test_the_bytes_that_were_read_are_told() -> None:
    told: list[int] = []
    content = b'{"id":"a","text":"x"}\n\nbad\n'
    parse = line_parser(Fields(), mapped=False)
    list(partial(read_jsonl, io.BytesIO(content), "x", parse, told.append)())
    assert sum(told) == len(content)
