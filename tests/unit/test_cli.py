"""The command: help of everything, one line for an error, and the right exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import orjson
import pytest

from app.cli.main import COMMANDS, headrace, main
from app.cli.options import setting_flags
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.observe.logs.set_up_logs", lambda _: None)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    """The path of every command and subcommand."""
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, *path, name)
    return found


@pytest.mark.parametrize("path", [(), *commands(headrace)], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*path, "--help") == 0
    out = capsys.readouterr().out
    assert "Usage: " in out
    assert "--help" in out


def test_the_help_names_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-h") == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] and len(line.split()) > 2 for line in out.splitlines()), name


def test_settings_as_json_hold_every_setting_with_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PORT", "81")
    monkeypatch.setenv("HEADRACE_REDIS_PASSWORD", "s3cret")
    assert run("settings", "--json") == 0
    out = capsys.readouterr().out
    rows = {row["name"]: row for row in orjson.loads(out)}
    assert set(rows) == set(Settings.model_fields)
    assert (rows["port"]["value"], rows["port"]["source"]) == ("81", "environment")
    assert "s3cret" not in out


def test_settings_as_a_table_show_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("settings") == 0
    out = capsys.readouterr().out
    assert all(PREFIX + name.upper() in out for name in Settings.model_fields)


@pytest.mark.parametrize("arguments", [["nonsense"], ["topics", "nonsense"], ["serve", "--nonsense"], ["search"]])
def test_wrong_usage_is_status_2_and_says_how(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "Usage: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "http"],
        ["embed", "--runtime", "cuda"],
        ["index", "--collection", "a/b"],
        ["topics", "create", "--partitions", "0"],
        ["publish", "--collection", "a/b"],
        ["serve", "--redis-url", "", "--index-urls", ""],
        ["serve", "--redis-url", "localhost"],
    ],
)
def test_a_wrong_setting_is_one_line_and_status_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.serve.set_up_logs", lambda _: None)
    assert run(*arguments) == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("headrace: ")
    assert "HEADRACE_" in line


def test_a_wrong_variable_is_one_line_for_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_PARTITIONS", "many")
    for name in ("settings", "serve", "embed", "index", "up"):
        assert run(name) == 1
        assert capsys.readouterr().err.startswith("headrace: HEADRACE_PARTITIONS (environment): ")


def test_a_search_without_a_gateway_says_what_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", "--url", "http://127.0.0.1:1", "hello") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no gateway at http://127.0.0.1:1" in line
    assert "headrace serve" in line


def test_a_search_asks_in_its_mode_and_shows_scores_where_they_are_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks: list[dict[str, Any]] = [
        {"text": "the mill", "start": 0, "end": 8, "score": 2.0, "highlights": [{"start": 4, "end": 8}]},
        {"text": "its race", "start": 9, "end": 17, "score": 1.0, "highlights": []},
    ]
    hit = {"id": "a", "title": "Mills", "score": 1 / 61, "text": "the mill", "highlights": [], "chunks": chunks}
    hit |= {"vector_score": None, "vector_rank": None, "keyword_score": 7.25, "keyword_rank": 1}
    answer = {"mode": "hybrid", "hits": [hit], "partial": False, "took_ms": 1.5}
    answer |= {"freshness": {"staleness_ms": None, "as_of": None}}
    asked: list[dict[str, Any]] = []

    async def ask(_url: str, _method: str, _path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body)
        return answer

    monkeypatch.setattr("app.cli.search.ask_once", ask)
    assert run("search", "water", "mill") == 0
    brief = capsys.readouterr().out
    assert run("search", "--mode", "keyword", "-v", "mill") == 0
    full = capsys.readouterr().out
    assert [(body["query"], body["mode"]) for body in asked] == [("water mill", "hybrid"), ("mill", "keyword")]
    assert "0.0164  Mills  a" in brief
    assert "its race" not in brief
    assert "place" not in brief
    assert "keywords 7.250 (place 1)" in full
    assert "meaning" not in full
    assert "its race" in full
    assert run("search", "--mode", "psychic", "mill") == 2


def test_a_search_with_a_filter_that_is_no_json_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", "--filter", "lang=en", "hello") == 2
    assert "--filter is not JSON" in capsys.readouterr().err


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(headrace, "main", interrupted)
    assert run("settings") == 130


def test_a_flag_has_the_name_the_meaning_and_the_variable_of_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @setting_flags("freshness_objective_ms", "port")
    def command(**flags: Any) -> None:
        click.echo(orjson.dumps(flags))

    command.main(["--port", "8", "--freshness-objective-ms", "x"], standalone_mode=False)
    assert orjson.loads(capsys.readouterr().out) == {"port": "8", "freshness_objective_ms": "x"}
    command.main([], standalone_mode=False)
    assert orjson.loads(capsys.readouterr().out) == {"port": None, "freshness_objective_ms": None}
    command.main(["--help"], standalone_mode=False)
    text = " ".join(capsys.readouterr().out.split())
    meaning = "a document should be found so long after it was sent; slower ones are always traced [ms]"
    assert f"{meaning} (HEADRACE_FRESHNESS_OBJECTIVE_MS)" in text


def test_the_installed_command_loads_nothing_heavy_for_its_version() -> None:
    """Each subcommand is imported when it is run: `publish` must not wait for Faust."""
    program = (
        "import sys\n"
        "from app.cli import main\n"
        "try:\n    main(['--version'])\n"
        "finally:\n    print(sorted({'faust', 'openvino', 'hnswlib', 'aiohttp', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]")
