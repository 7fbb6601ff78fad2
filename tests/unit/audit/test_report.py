"""What is printed of an audit, and its exit status."""

from __future__ import annotations

import io

import pytest
from click.testing import CliRunner
from rich.console import Console

from app.audit.audit import Report
from app.audit.compare import Finding
from app.cli.audit import audit
from app.cli.audit_display import show

FINDINGS = [
    Finding("stale", 1, "r", f"doc-{number}", f"document, change {number + 5}", f"document, change {number}")
    for number in range(5)
]


def printed(report: Report, examples: int = 2) -> str:
    out = io.StringIO()
    show(Console(file=out, width=300, highlight=False), report, examples)
    return out.getvalue()


@pytest.mark.parametrize(
    ("report", "status", "verdict"),
    [
        (Report(), 0, "clean"),
        (Report(findings=FINDINGS), 1, "drift: run `headrace audit --repair`"),
        (Report(findings=FINDINGS, left=[]), 0, "clean, after the repair"),
        (Report(findings=FINDINGS, left=FINDINGS[:1]), 1, "mended by a rebuild"),
        (Report(problems=["shard 2 of replica r is behind"]), 2, "shard 2 of replica r is behind"),
        (Report(findings=FINDINGS, left=[], problems=["x"]), 2, "incomplete"),
    ],
)
def test_the_exit_status_is_the_verdict(report: Report, status: int, verdict: str) -> None:
    assert report.status == status
    assert verdict in printed(report)
    assert report.fields(3)["status"] == ("clean", "drift", "incomplete")[status]


def test_counts_come_with_a_few_examples_of_each() -> None:
    report = Report(replicas=["r"], documents=10, rows=9, findings=FINDINGS)
    text = printed(report)
    assert ["5", "stale", "r", "1"] in [line.split()[:4] for line in text.splitlines()]
    assert "doc-1; topic: document, change 6; found: document, change 1" in text
    assert "doc-2" not in text
    assert report.fields(1)["counts"] == [{"kind": "stale", "replica": "r", "shard": 1, "count": 5}]
    assert [example["id"] for example in report.fields(1)["examples"]] == ["doc-0"]


def test_without_kafka_nothing_was_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.kafka.topics.TIMEOUT_S", 0.2)
    done = CliRunner().invoke(
        audit, ["--brokers", "127.0.0.1:9", "--redis-url", ""], standalone_mode=False, catch_exceptions=False
    )
    assert done.return_value == 2
    assert "no Kafka at 127.0.0.1:9" in done.stderr
