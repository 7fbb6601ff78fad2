"""Files that people publish: any bytes are changes, bad inputs, or a file that is refused as a whole."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.changes import BadInput, Change, Fields, Item
from producers.files import FileReader
from producers.html import html_text
from producers.jsonl import line_parser, read_jsonl
from producers.tables import check_parquet, read_csv, read_parquet
from schemas.errors import Fatal, InvalidChange
from tests.fuzz.mutations import FUZZ, NASTY, Raw, damaged, encoded, json_mutations
from tests.unit.schemas.strategies import changes

CHANGES = changes().map(lambda change: orjson.loads(change.encode()))
FIELDS = st.builds(
    Fields,
    op=st.none() | st.just("op"),
    version=st.none() | st.just("version"),
    event_time=st.none() | st.just("event_time"),
    metadata=st.none() | st.just(("lang", "year")),
    numbers=st.just(frozenset()) | st.just(frozenset({"year"})),
    delete=st.booleans(),
)
CELLS = st.sampled_from(
    [
        "",
        "a",
        "7",
        "-1",
        "9" * 25,
        "9" * 5000,
        "1e999",
        "nan",
        "inf",
        "1_0",
        "١",
        "\x00",
        "delete",
        "upsert",
        "2026-01-01",
        "2026-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        '"',
        "x,y",
        "\r\n",
        "é" * 2000,
    ]
)


def check(items: Iterable[Item]) -> None:
    for item in items:
        if isinstance(item, Change):
            item.change.encode()
        else:
            assert isinstance(item, BadInput)
            assert item.reason


@FUZZ
@given(st.lists(st.binary(max_size=50) | json_mutations(CHANGES), max_size=4), FIELDS, st.booleans())
def test_any_lines_are_changes_or_bad_inputs(lines: list[bytes], fields: Fields, mapped: bool) -> None:
    content = b"\n".join(lines)
    check(read_jsonl(io.BytesIO(content), "f", line_parser(fields, mapped=mapped), lambda _: None))


@FUZZ
@given(st.lists(st.lists(CELLS, max_size=8), max_size=4), FIELDS, st.data())
def test_any_table_is_changes_bad_inputs_or_refused(rows: list[list[str]], fields: Fields, data: st.DataObject) -> None:
    written = io.StringIO()
    header = ["id", "text", "title", "op", "version", "event_time", "lang", "year"]
    csv.writer(written).writerows([header, *([*row, *[""] * (8 - len(row))] for row in rows)])
    content = written.getvalue().encode()
    if data.draw(st.booleans(), label="damage"):
        content = data.draw(damaged(st.just(content)) | st.binary(max_size=60))
    with contextlib.suppress(Fatal):
        check(read_csv(io.BytesIO(content), "f", fields, ",", lambda _: None))


def test_a_line_of_a_table_that_is_too_long_is_one_bad_input_and_never_held_whole() -> None:
    content = b"id,text\na,x\n" + b"b," + b"y" * 500 + b"\nc,z\n"
    with mock.patch("producers.tables.MAX_ITEM_BYTES", 64), mock.patch("producers.changes.MAX_ITEM_BYTES", 64):
        items = list(read_csv(io.BytesIO(content), "f", Fields(), ",", lambda _: None))
    assert [item.change.id if isinstance(item, Change) else item.reason for item in items] == [
        "a",
        "not CSV: the line is longer than 64 bytes",
        "c",
    ]


@pytest.mark.parametrize("name", ["event_time", "version", "year"])
def test_a_number_of_thousands_of_digits_is_a_bad_input(name: str) -> None:
    fields = Fields(version="version", event_time="event_time", numbers=frozenset({"year"}))
    row: dict[str, Any] = {"id": "a", "text": "x", name: "9" * 5000}
    with pytest.raises(InvalidChange):
        fields.change(row)


MARKUP = st.sampled_from(
    [
        "<p>",
        "</p>",
        "<!",
        "<![",
        "<!--",
        "-->",
        "<?",
        "&",
        "&#",
        "&#x110000;",
        "&#0;",
        "<script>",
        "</",
        "<title>",
        "\x00",
        "<a href='",
        '">',
        "<h1",
        "text",
        "é",
        "<![CDATA[",
    ]
)


@FUZZ
@given(st.lists(MARKUP, max_size=12).map("".join) | st.text())
def test_any_markup_is_text(markup: str) -> None:
    text, title = html_text(markup)
    assert isinstance(text, str)
    assert title is None or title


@pytest.mark.parametrize("part", ["<", "<!", "<![", "<!--", "<a b='", "&", "<p", "</", "<?", "<title>", "<a b=c "])
def test_no_markup_takes_quadratic_time(part: str) -> None:
    started = time.perf_counter()
    html_text(part * (200_000 // len(part)))
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "encoding",
    [
        "idna",
        "punycode",
        "undefined",
        "unicode_escape",
        "raw-unicode-escape",
        "zlib",
        "hex",
        "utf-7",
        "utf-16",
        "cp65001",
    ],
)
def test_any_encoding_that_a_page_names_is_text_or_a_bad_input(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "page.html"
    for body in (b"\\x", b"\xff\xfe", b"+2AA-", b"xn--\x80", b"a..b." + b"x" * 99):
        path.write_bytes(f'<meta charset="{encoding}">'.encode() + body)
        check([FileReader().read(path, "page.html")])


@FUZZ
@given(content=st.binary() | damaged(st.just(b"---\ntitle: x\n---\n# Heading\n\ntext\n===\n```\n")))
def test_any_file_is_a_document_or_a_bad_input(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("a.txt", "a.md", "a.html"):
        (folder / name).write_bytes(content)
        check([FileReader().read(folder / name, name)])


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"id": ["a"], "text": ["x"]} | columns), path)
    return path


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("us", tz="UTC")),
        pa.array([-(2**62)], pa.timestamp("ms")),
        pa.array([2**30], pa.date32()),
        pa.array([2**62], pa.duration("s")),
        pa.array([[{"a": [1]}]]),
        pa.array([b"\xff"], pa.binary()),
        pa.array([2**64 - 1], pa.uint64()),
        pa.array([float("inf")]),
        pa.array([datetime(1, 1, 1)]),  # noqa: DTZ001
        pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")),
    ],
)
def test_any_value_of_parquet_is_a_change_a_bad_input_or_named(tmp_path: Path, column: Any) -> None:
    path = table(tmp_path / "a.parquet", odd=column)
    check_parquet(path, Fields())
    try:
        items = list(read_parquet(path, Fields(event_time="odd"), lambda _: None))
        items += read_parquet(path, Fields(version="odd"), lambda _: None)
        items += read_parquet(path, Fields(), lambda _: None)
    except Fatal as error:
        items, reason = [], str(error)
    else:
        reason = "a.parquet is damaged after row 0"
    assert "a.parquet is damaged after row 0" in reason
    check(items)


@FUZZ
@given(st.data())
def test_any_file_is_parquet_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    sound = table(folder / "sound.parquet", lang=["en"]).read_bytes()
    path = folder / "damaged.parquet"
    path.write_bytes(data.draw(damaged(st.just(sound))))
    with contextlib.suppress(Fatal):
        check_parquet(path, Fields())
        check(read_parquet(path, Fields(), lambda _: None))


def test_what_is_nasty_is_known() -> None:
    """The list that the mutations draw from holds what it should: a broken one would prove nothing."""
    assert {b"NaN", b'"\\ud800"', b"9" * 5000} <= {bytes(item) for item in NASTY if isinstance(item, Raw)}
    assert encoded({"a": [Raw(b"NaN"), 2**70]}) == b'{"a":[NaN,1180591620717411303424]}'
