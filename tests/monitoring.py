"""What deploy/ asks of Prometheus: the expressions of the dashboard and of the rules, and Prometheus itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.services import need

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "headrace.json"


def dashboard() -> dict[str, Any]:
    """As Grafana reads it."""
    return dict(json.loads(DASHBOARD.read_text()))


def panel_expressions(rate_interval: str = "1m") -> Iterator[tuple[str, str]]:
    """Title of the panel, expression as Prometheus gets it."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", rate_interval)


def rules() -> list[dict[str, str]]:
    """Recording rules and alerts."""
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """Ours, in an expression; what recording rules make has a colon in its name."""
    return set(re.findall(r"(?<![\w:])headrace_\w+(?!\w*:)", expression))


def program_or_skip(name: str) -> str:
    """Path of prometheus or promtool."""
    found = shutil.which(name)
    need(found is not None, f"no {name}: apt-get install prometheus")
    assert found is not None
    return found
