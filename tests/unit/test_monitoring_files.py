"""Alert rules, dashboard and their wiring, by what can be known without running them."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from app.observe.metrics import EmbedMetrics, GatewayMetrics, IndexMetrics
from tests.monitoring import (
    DASHBOARD,
    PROMETHEUS,
    ROOT,
    dashboard,
    metric_names,
    panel_expressions,
    program_or_skip,
    rules,
)

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def sample_names() -> set[str]:
    """Of every sample that a role may expose."""
    names = set()
    for metrics in (EmbedMetrics(), IndexMetrics(), GatewayMetrics()):
        for family in metrics.registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + suffix for suffix in suffixes}
    return names


def test_dashboard_and_rules_name_only_metrics_that_exist() -> None:
    expressions = [expression for _, expression in panel_expressions()] + [rule["expr"] for rule in rules()]
    named = set().union(*map(metric_names, expressions))

    assert len(expressions) > 50
    assert named - sample_names() == set()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for text in expressions for name in re.findall(r"headrace:[\w:]+", text)} <= recorded


def test_every_alert_has_a_severity_a_summary_a_test_and_a_place_in_the_docs() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    tested = (PROMETHEUS / "rules_test.yml").read_text()
    page = (ROOT / "docs" / "monitoring.md").read_text()

    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name  # type: ignore[index]
        assert rule["annotations"]["summary"], name  # type: ignore[index]
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n +- exp_labels", tested), name
    assert set(re.findall(r"^\| `(Headrace\w+)` \|", page, re.MULTILINE)) == set(alerts)


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program_or_skip("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_compose_scrapes_every_role_on_its_port_and_grafana_finds_prometheus_and_the_dashboard() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    scraped = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    ports = {"embed": "HEADRACE_EMBED_PORT", "index": "HEADRACE_INDEX_PORT", "search": "HEADRACE_PORT"}
    assert scraped == {
        f"headrace-{role}": [f"{role}:{COMPOSE[role]['environment'][name]}"] for role, name in ports.items()
    }
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert {source["uid"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "jaeger": "http://jaeger:16686",
    }
    used = {target["datasource"]["uid"] for panel in dashboard()["panels"] for target in panel.get("targets", ())}
    assert used == {"prometheus"}
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "headrace.yml").read_text())["providers"]
    volumes = dict(volume.split(":")[:2] for volume in COMPOSE["grafana"]["volumes"])
    assert volumes["./" + DASHBOARD.parent.relative_to(ROOT).as_posix()] == provider["options"]["path"]
