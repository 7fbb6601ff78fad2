"""What the documentation names exists, and what has to be documented is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from app.cli.main import COMMANDS, headrace
from app.cli.settings_page import default_text, settings_page
from app.gateway.openapi import Document, openapi
from app.observe.metrics import EmbedMetrics, GatewayMetrics, IndexMetrics, exposition
from app.settings import PREFIX, Settings
from schemas.dead_letter import DeadLetter
from schemas.document_change import DocumentChange
from schemas.headers import STAGES, RecordHeaders
from schemas.receipt import MissingReplica, Receipt, ReplicaReceipt
from schemas.search import Hit, SearchRequest, SearchResponse, ShardFreshness
from schemas.waiting import ReplicaFreshness, WaitRequest, WaitResponse

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
FOLDERS = ("app", "consumers", "producers", "schemas", "docs", "tests", "deploy", "bench")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def test_settings_page_is_up_to_date() -> None:
    assert (DOCS / "settings.md").read_text() == settings_page(), (
        "run: python -m app.cli.settings_page > docs/settings.md"
    )


def test_every_setting_is_documented_with_its_default() -> None:
    rows = {line.split("|")[1].strip(): line for line in (DOCS / "settings.md").read_text().splitlines() if "|" in line}

    for name, field in Settings.model_fields.items():
        row = rows[f"`{PREFIX}{name.upper()}`"]
        assert default_text(field) in row.split("|")[2]


@each_page
def test_every_variable_a_page_names_is_a_setting(page: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {"HEADRACE_URL"}  # of `headrace search`

    assert set(re.findall(r"\bHEADRACE_[A-Z_]*[A-Z]", page.read_text())) <= known


def test_metrics_page_names_the_metrics_that_there_are() -> None:
    metrics = EmbedMetrics(), IndexMetrics(), GatewayMetrics()
    exposed = {name for role in metrics for name in _metric_names(role.registry)}
    documented = set(re.findall(r"^\| `(headrace_\w+)` \|", (DOCS / "metrics.md").read_text(), re.MULTILINE))

    assert documented == exposed


def test_search_api_page_names_every_path_and_field() -> None:
    text = (DOCS / "search-api.md").read_text()
    paths = openapi("0")["paths"]
    models: tuple[type[BaseModel], ...] = (SearchRequest, SearchResponse, Hit, ShardFreshness, Document)
    models += (WaitRequest, WaitResponse, ReplicaFreshness, Receipt, ReplicaReceipt, MissingReplica)
    fields = {name for model in models for name in model.model_fields}

    assert [path for path in paths if path not in text] == []
    assert [name for name in sorted(fields) if not re.search(rf'[`".]{name}[`"]', text)] == []


def test_formats_page_names_every_header_and_field() -> None:
    text = (DOCS / "formats.md").read_text()
    record = RecordHeaders("document", 0, 0, 0, 0, "e", 0, version=1, stages={"produced": 1}, traceparent="t")
    letter = DeadLetter("t", 0, 0, "decode", "InvalidChange", "m", 0)
    names = {name for name, _ in (*record.encode(), *letter.headers(()))}
    fields = set(DocumentChange.model_fields)

    assert [name for name in sorted(names | fields) if f"`{name}`" not in text] == []
    assert [stage for stage in STAGES[: STAGES.index("arrived")] if f"{stage}=" not in text] == []


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)", _without_code(page.read_text())):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), f"{target}#{anchor}"


@each_page
def test_every_path_a_page_names_exists(page: Path) -> None:
    named = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", page.read_text())
    named = [path for path in named if "schemas.v" not in path]

    assert [path for path in named if not (ROOT / path).exists()] == []


@each_page
def test_every_test_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())

    assert page.name != "faust.md" or len(named) > 30
    assert [(file, name) for file, name in named if name not in _tests(ROOT / file)] == []


def test_every_trap_names_the_test_that_would_catch_it() -> None:
    rows = [line for line in (DOCS / "faust.md").read_text().splitlines() if line.startswith("| ")]

    assert [row for row in rows if "| the test |" not in row and "::test_" not in row.split(" | ")[-1]] == []


@each_page
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {match for code in _code(page.read_text()) for match in re.findall(r"^make ([a-z-]+)", code)}

    assert named <= targets


@each_page
def test_every_command_and_flag_exists(page: Path) -> None:
    for words in _headrace_calls(page.read_text()):
        _check_call(words)


@each_page
def test_no_page_names_a_line_number_or_a_path_of_one_machine(page: Path) -> None:
    text = page.read_text()

    assert re.findall(r"\.(?:py|js|toml|yml|sh):\d+|#L\d+|\blines? \d+", text) == []
    assert re.findall(r"(?<![\w.])/(?:work|root|home/\w+)(?!\w)|/tmp/", text) == []


def test_every_decision_has_context_decision_and_consequences() -> None:
    records = sorted((DOCS / "adr").glob("*.md"))

    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    for record in records:
        assert re.findall(r"^## (\w+)", record.read_text(), re.MULTILINE) == ["Context", "Decision", "Consequences"]


def _metric_names(registry: CollectorRegistry) -> set[str]:
    names = re.findall(r"^# TYPE (\S+)", exposition(registry)[0].decode(), re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}


@cache
def _tests(file: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE))


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def _code(text: str) -> Iterator[str]:
    """Every line of a shell block and every code span."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language in ("", "sh"):
            yield from (line.strip() for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def _anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", _without_fences(file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _headrace_calls(text: str) -> Iterator[list[str]]:
    """The words after `headrace` wherever it is a command: at the start, after variables, a pipe or `$(`."""
    for line in _code(text):
        for part in re.split(r"\||\$\(|;|&&", re.sub(r"\s#\s.*|\s{2,}\D*$", "", line)):
            match = re.match(r"\s*(?:[A-Z_]+=\S* +)*(?:\.venv/bin/)?headrace +([^)]*)", part)
            if match and not match[1].startswith(("…", "-")):
                yield _words(match[1])


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation that a pipe has cut
        return text.split()


def _check_call(words: list[str]) -> None:
    command: click.Command = headrace
    while isinstance(command, click.Group):
        assert words, "a command is missing"
        names = COMMANDS if command is headrace else command.commands
        assert words[0].rstrip(",.:") in names, words
        found = command.get_command(click.Context(command), words.pop(0).rstrip(",.:"))
        assert found is not None
        command = found
        if not words:
            return  # the group itself is meant
    flags = _flags(command)
    assert [word for word in words if re.match(r"-[-\w]", word) and word.split("=")[0] not in flags] == []


@cache
def _flags(command: click.Command) -> frozenset[str]:
    return frozenset(name for parameter in command.params for name in parameter.opts) | {"-h", "--help"}
