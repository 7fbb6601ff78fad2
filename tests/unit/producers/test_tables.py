from __future__ import annotations

import io
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producers.changes import Change, Fields, Item
from producers.tables import check_csv, check_parquet, read_csv, read_parquet
from schemas.errors import Fatal
from tests.unit.producers.sources import advance, bad, good


def read(content: bytes, fields: Fields | None = None, delimiter: str = ",") -> list[Item]:
    return list(read_csv(io.BytesIO(content), "in.csv", fields or Fields(), delimiter, advance))


def test_a_row_of_csv_is_a_document_and_its_other_columns_are_metadata() -> None:
    (change,) = good(read(b"id,text,title,zip,empty\na,some text,T,01234,\n"))
    assert (change.id, change.text, change.title) == ("a", "some text", "T")
    assert change.metadata == {"zip": "01234"}


def test_quotes_newlines_and_nul_inside_a_cell_are_kept() -> None:
    (change, other) = good(read(b'id,text\na,"line 1\nline ""2"", and\x00nul"\nb,x\n'))
    assert change.text == 'line 1\nline "2", and\x00nul'
    assert other.id == "b"


def test_a_bad_row_is_named_by_the_line_it_starts_on_and_the_rest_goes_on() -> None:
    items = read(b'id,text\na,"two\nlines"\n,no id\nb,x,too many\nc,"bad"quote\nd,\xff\ne,ok\n')
    assert [item.change.id for item in items if isinstance(item, Change)] == ["a", "e"]
    assert list(bad(items)) == ["in.csv:4", "in.csv:5", "in.csv:6", "in.csv:7"]
    assert "3 columns" in bad(items)["in.csv:5"]
    assert "UTF-8" in bad(items)["in.csv:7"]


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest_unseen() -> None:
    assert list(bad(read(b'id,text\na,"open\nb,x\nc,y\n'))) == ["in.csv:2"]


def test_the_operation_column_says_delete() -> None:
    found = good(read(b"id,text,op\na,,delete\nb,x,\nc,y,UPSERT\n", Fields(op="op")))
    assert [(change.op, change.id) for change in found] == [("delete", "a"), ("upsert", "b"), ("upsert", "c")]
    assert list(bad(read(b"id,text,op\na,x,drop\n", Fields(op="op")))) == ["in.csv:2"]


def test_the_delete_flag_needs_no_text_column() -> None:
    (change,) = good(read(b"key\na\n", Fields(id="key", delete=True)))
    assert (change.op, change.id) == ("delete", "a")


def test_numbers_are_numbers_only_where_they_are_named() -> None:
    fields = Fields(numbers=frozenset({"n", "f"}), version="rev", event_time="at")
    content = (
        b"id,text,n,f,rev,at,m\na,x,17,2.5,4,1769860800000,17\nb,x,many,1,1,1,1\nc,x,1,nan,1,1,1\nd,x,1,1,one,1,1\n"
    )
    items = read(content, fields)
    (change,) = [item.change for item in items if isinstance(item, Change)]
    assert change.metadata == {"n": 17, "f": 2.5, "m": "17"}
    assert (change.version, change.event_time) == (4, 1769860800000)
    assert list(bad(items)) == ["in.csv:3", "in.csv:4", "in.csv:5"]


def test_other_delimiters_and_a_byte_order_mark_are_read() -> None:
    (change,) = good(read("\ufeffid\ttext\nа\tтекст\n".encode(), delimiter="\t"))
    assert (change.id, change.text) == ("а", "текст")


def test_a_cell_of_one_megabyte_is_read() -> None:
    text = "word " * 200_000
    (change,) = good(read(f"id,text\na,{text}\n".encode()))
    assert change.text == text


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"id,body\n", "no column 'text'; it has id, body"),
        (b"", "is empty"),
        (b"id,id\n", "of one name"),
        (b"\xff\n", "UTF-8"),
    ],
)
def test_a_header_that_cannot_be_used_is_said_before_anything_is_read(tmp_path: Path, header: bytes, said: str) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(header)
    with pytest.raises(Fatal, match=said):
        check_csv(path, Fields(), ",")


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_keeps_the_types_of_its_columns(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "in.parquet",
        id=[1, 2],
        text=["one\x00", "два"],
        year=[2020, None],
        score=[0.5, float("nan")],
        flag=[True, False],
        tags=[["a", "b"], []],
        day=[date(2026, 1, 31), None],
        price=[Decimal("1.50"), Decimal("2.00")],
        at=[datetime(2026, 1, 31, 12, tzinfo=UTC)] * 2,
    )
    fields = Fields(event_time="at")
    check_parquet(path, fields)
    first, second = good(read_parquet(path, fields, advance))
    assert (first.id, first.text, first.event_time) == ("1", "one\x00", 1769860800000)
    assert first.metadata == {
        "year": 2020,
        "score": 0.5,
        "flag": True,
        "tags": ["a", "b"],
        "day": "2026-01-31",
        "price": 1.5,
    }
    assert second.text == "два"
    assert "year" not in second.metadata


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    path = parquet(tmp_path / "in.parquet", id=["a", None, "c"], text=["x", "y", None])
    items = list(read_parquet(path, Fields(), advance))
    assert list(bad(items)) == [f"{path}:2", f"{path}:3"]


def test_many_rows_of_parquet_come_in_order_and_tell_how_far_they_are(tmp_path: Path) -> None:
    path = parquet(tmp_path / "in.parquet", id=[str(i) for i in range(1000)], text=["x"] * 1000)
    told: list[int] = []
    assert [change.id for change in good(read_parquet(path, Fields(), told.append))] == [str(i) for i in range(1000)]
    assert sum(told) == path.stat().st_size


def test_columns_that_metadata_cannot_hold_are_left_out_by_choosing_the_others(tmp_path: Path) -> None:
    path = parquet(tmp_path / "in.parquet", id=["a"], text=["x"], lang=["en"], nested=[{"a": 1}])
    assert list(bad(read_parquet(path, Fields(), advance))) == [f"{path}:1"]
    (change,) = good(read_parquet(path, Fields(metadata=("lang",)), advance))
    assert change.metadata == {"lang": "en"}


def test_what_is_not_parquet_or_lacks_a_column_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(b"id,text\n")
    with pytest.raises(Fatal, match="is not Parquet"):
        check_parquet(path, Fields())
    with pytest.raises(Fatal, match="no column 'text'"):
        check_parquet(parquet(path, id=["a"]), Fields())


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(Fatal, match=r"headrace\[parquet\]"):
        check_parquet(tmp_path / "in.parquet", Fields())
