"""A real Prometheus beside a running stack: every expression of dashboard and rules is asked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from app.local.broker import EmbeddedBroker
from app.local.process import free_port
from app.local.redis import LocalRedis
from tests.conftest import MakeStack
from tests.monitoring import PROMETHEUS, panel_expressions, program_or_skip, rules
from tests.services_local import eventually
from tests.stack import Stack


class Prometheus:
    """On loopback, with the rules of deploy/, scraping a stack."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
        for job in config["scrape_configs"]:
            url = stack.role(job["job_name"].removeprefix("headrace-")).url
            job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.address = f"127.0.0.1:{free_port()}"
        self._http = httpx.Client(trust_env=False, timeout=10, base_url=f"http://{self.address}/api/v1")
        self.command = [
            program_or_skip("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        process = subprocess.Popen(self.command)
        try:
            yield
        finally:
            process.kill()
            process.wait(10)
            self._http.close()

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer; None while it does not answer."""
        try:
            answer = self._http.get(path, params=query).json()
        except (httpx.TransportError, json.JSONDecodeError):
            return None
        assert answer["status"] == "success", (query, answer)
        return answer["data"]

    def ask(self, expression: str) -> list[Any]:
        """The samples now."""
        return list(self.get("/query", query=expression)["result"])

    def all_up(self) -> bool:
        told = self.get("/query", query="sum(up)")
        return told is not None and told["result"] != [] and told["result"][0]["value"][1] == "3"


def test_every_panel_shows_something_and_every_rule_can_be_evaluated(
    make_stack: MakeStack, embedded_broker: EmbeddedBroker, small_redis: LocalRedis, tmp_path: Path
) -> None:
    stack = make_stack(
        embedded_broker.address,
        small_redis.url,
        runtime="hashing",
        embedded_broker_id="test",
        probe_one_in=1,
        otlp_endpoint="http://127.0.0.1:1",  # exemplars are of traced documents
        trace_one_in=1,
        lag_interval_s=0.3,
        recall_interval_s=0.5,
        audit_interval_s=0.5,
    )
    stack.start()
    stack.produce(b"poison", b"not JSON")
    prometheus = Prometheus(tmp_path, stack)
    with prometheus.running():
        eventually(prometheus.all_up, within_s=60)
        sent = iter(range(10**6))

        def every_panel_has_data() -> bool:
            number = next(sent)
            position = stack.publish(f"d{number}", f"Document {number}.")
            stack.hits("document", position)
            stack.delete(f"d{number}")
            empty.clear()
            empty.update((title, asked) for title, asked in panel_expressions() if not prometheus.ask(asked))
            return not empty

        empty: set[tuple[str, str]] = set()
        try:
            eventually(every_panel_has_data, within_s=60)
        except AssertionError:
            raise AssertionError(f"no result: {empty}") from None
        groups = prometheus.get("/rules")["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        assert {rule["name"] for rule in found} == {rule.get("alert") or rule["record"] for rule in rules()}
        eventually(
            lambda: all(
                rule["health"] == "ok" for group in prometheus.get("/rules")["groups"] for rule in group["rules"]
            )
        )
        latency = "headrace_latency_seconds_bucket"
        traces = prometheus.get("/query_exemplars", query=latency, start="0", end="9999999999")
        assert len(traces[0]["exemplars"][0]["labels"]["trace_id"]) == 32
