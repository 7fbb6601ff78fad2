from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from app.settings import Settings
from producers.commands import publish
from schemas.errors import Fatal, HeadraceError, ServiceMissing, TopicsWrong
from tests.unit.producers.broker import changes, read_topic

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command against the mock broker, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_BROKERS", settings.brokers)
    monkeypatch.setenv("HEADRACE_COLLECTION", settings.collection)
    monkeypatch.setenv("HEADRACE_EMBEDDED_BROKER_ID", "test")
    return lambda *arguments, **given: CliRunner().invoke(publish, [str(item) for item in arguments], **given)


def refusal(result: Result) -> str:
    """The one line that a command ends with; `headrace` prints it and exits with 1."""
    assert isinstance(result.exception, HeadraceError), result.output
    line = str(result.exception)
    assert "\n" not in line
    return line


def test_json_lines_from_stdin_are_published_with_a_summary(run: Run, settings: Settings) -> None:
    result = run(input='{"id":"a","text":"x"}\n{"id":"b","text":"y"}\n{"op":"delete","id":"a"}\n')
    assert result.exit_code == 0
    assert "published 3  failed 0  bad input 0" in result.stdout
    assert f"last offset per partition of {settings.changes_topic}:" in result.stdout
    assert {name: change.op for name, change in changes(settings, 3).items()} == {"a": "delete", "b": "upsert"}


def test_the_summary_as_json_holds_the_min_offsets_of_a_search(run: Run, settings: Settings) -> None:
    lines = b"".join(orjson.dumps({"id": str(number), "text": "x"}) + b"\n" for number in range(40))
    result = run("--json", "-", input=lines)
    summary = orjson.loads(result.stdout)
    assert (result.exit_code, summary["published"], summary["failed"], summary["stopped"]) == (0, 40, 0, None)
    highest: dict[str, int] = {}
    for item in read_topic(settings, 40):
        highest[str(item.partition)] = max(item.offset, highest.get(str(item.partition), 0))
    assert summary["last_offsets"] == highest


def test_a_bad_line_is_named_the_rest_goes_on_and_the_status_is_1(run: Run, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id":"a","text":"x"}\nnope\n{"id":"b","text":"y"}\n')
    result = run("in.jsonl")
    assert result.exit_code == 1
    assert "in.jsonl:2: Invalid JSON" in result.stderr
    assert "published 2  failed 0  bad input 1" in result.stdout
    assert set(changes(settings, 2)) == {"a", "b"}


def test_strict_stops_at_the_first_bad_line(run: Run, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id":"a","text":"x"}\nnope\n{"id":"b","text":"y"}\n')
    result = run("--strict", "in.jsonl")
    assert result.exit_code == 1
    assert "stopped: at in.jsonl:2" in result.stdout
    assert set(changes(settings, 1)) == {"a"}


def test_a_text_that_is_too_large_is_bad_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MAX_TEXT_BYTES", "5")
    result = run(input='{"id":"a","text":"too long"}\n{"id":"b","text":"fits"}\n')
    assert result.exit_code == 1
    assert "stdin:1: the text of 'a' is larger than max_text_bytes (5)" in result.stderr
    assert "published 1" in result.stdout


def test_a_failed_delivery_is_reported_with_its_line_and_id(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MAX_RECORD_BYTES", str(2**20))
    monkeypatch.setenv("HEADRACE_MAX_TEXT_BYTES", str(2**19))
    result = run(input=orjson.dumps({"id": "nul", "text": "\x00" * 2**19}) + b'\n{"id":"b","text":"fits"}\n')
    assert result.exit_code == 1
    assert "stdin:1: 'nul' was not published: the record is larger" in result.stderr
    assert "published 1  failed 1  bad input 0" in result.stdout


def test_all_formats_are_published_in_one_run(run: Run, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.html").write_text("<p>hello")
    (tmp_path / "one.md").write_text("# One")
    (tmp_path / "a.csv").write_text("id,text\ncsv,x\n")
    (tmp_path / "b.tsv").write_text("id\ttext\ntsv\tx\n")
    (tmp_path / "c.jsonl").write_text('{"id":"jsonl","text":"x"}')
    pq.write_table(pa.table({"id": ["parquet"], "text": ["x"]}), tmp_path / "d.parquet")
    result = run("docs", "one.md", "a.csv", "b.tsv", "c.jsonl", "d.parquet", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(changes(settings, 6)) == {"page.html", "one.md", "csv", "tsv", "jsonl", "parquet"}


def test_two_files_of_one_id_do_not_replace_each_other(run: Run, settings: Settings, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_text(folder)
    result = run("a", "b")
    assert result.exit_code == 1
    assert "b/README.md: has the same id as a/README.md" in result.stderr
    assert changes(settings, 1)["README.md"].text == "a"
    assert run("b", "--id-prefix", "b/").exit_code == 0
    assert set(changes(settings, 2)) == {"README.md", "b/README.md"}


def test_fields_are_named_by_flags(run: Run, settings: Settings) -> None:
    flags = (
        "--format",
        "csv",
        "--id-field",
        "key",
        "--text-field",
        "body",
        "--number-field",
        "n",
        "--op-field",
        "what",
    )
    result = run(*flags, "-", input="key,body,n,what\na,text,17,\nb,,,delete\n")
    assert result.exit_code == 0, result.output
    found = changes(settings, 2)
    assert (found["a"].text, found["a"].metadata, found["b"].op) == ("text", {"n": 17}, "delete")


def test_the_delete_flag_takes_ids(run: Run, settings: Settings) -> None:
    assert run("--delete", input="a\nb\n").exit_code == 0
    assert {name: change.op for name, change in changes(settings, 2).items()} == {"a": "delete", "b": "delete"}


def test_a_text_file_of_ids_must_say_what_it_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a\n")
    assert "--format jsonl if its lines are ids" in refusal(run("--delete", "ids.txt"))
    assert run("--delete", "--format", "jsonl", "ids.txt").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl"], "none.jsonl does not exist"),
        (["in.xyz"], "in.xyz is of unknown format: say --format"),
        (["empty"], "empty has no files to publish"),
        (["in.csv"], "in.csv has no column 'text'; it has id, body"),
        (["in.csv", "--text-field", "bdoy"], "no column 'bdoy'"),
        (["empty", "--format", "csv"], "empty is a folder"),
        (["--format", "parquet", "-"], "cannot be read from a pipe"),
        (["--watch", "in.csv"], "in.csv is not a folder"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line_before_anything_is_sent(
    run: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "in.xyz").write_text("x")
    (tmp_path / "in.csv").write_text("id,body\na,x\n")
    result = run(*arguments)
    assert isinstance(result.exception, Fatal)
    assert said in refusal(result)


@pytest.mark.parametrize(
    "arguments", [["--watch"], ["--watch", ".", "--delete"], ["-", "-"], ["--delimiter", "ab"], ["--format", "doc"]]
)
def test_wrong_usage_has_status_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_missing_broker_is_one_line_that_says_where_it_looked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.commands._CONNECT_S", 0.5)
    result = run("--brokers", "127.0.0.1:1", input='{"id":"a","text":"x"}')
    assert isinstance(result.exception, ServiceMissing)
    line = refusal(result)
    assert "no Kafka at 127.0.0.1:1 (HEADRACE_BROKERS)" in line
    assert "headrace up" in line


def test_a_missing_topic_is_one_line_with_the_command_that_makes_it(
    run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_EMBEDDED_BROKER_ID", "")
    result = run(input='{"id":"a","text":"x"}')
    assert isinstance(result.exception, TopicsWrong)
    assert f"topic {settings.changes_topic} does not exist" in refusal(result)
    assert f"headrace topics create --collection {settings.collection}" in refusal(result)


def test_an_existing_topic_is_found_without_the_embedded_broker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(input='{"id":"a","text":"x"}').exit_code == 0
    monkeypatch.setenv("HEADRACE_EMBEDDED_BROKER_ID", "")
    assert run(input='{"id":"a","text":"x"}').exit_code == 0


def test_an_empty_input_publishes_nothing_and_is_no_error(run: Run) -> None:
    result = run(input="")
    assert (result.exit_code, "published 0" in result.stdout) == (0, True)


def test_a_broker_lost_on_the_way_stops_the_run(run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.publisher.DocumentPublisher.connect", lambda self, timeout_s: None)
    endless = b"".join(orjson.dumps({"id": str(number), "text": "x" * 4000}) + b"\n" for number in range(100_000))
    result = run("--brokers", "127.0.0.1:1", "--timeout", "0.3", "--json", input=endless)
    summary = orjson.loads(result.stdout)
    assert result.exit_code == 1
    assert "as Kafka does not confirm" in summary["stopped"]
    assert summary["published"] == 0
    assert 0 < summary["failed"] < 100_000
    assert "stdin:1: '0' was not published" in result.stderr


def test_progress_is_a_line_now_and_then_where_no_terminal_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.display.LINE_EVERY_S", 0.0)
    assert "documents" in run(input='{"id":"a","text":"x"}\n').stderr
    assert run("--quiet", input='{"id":"a","text":"x"}\n').stderr == ""
