"""What a Jaeger holds, asked through its query API as its users do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import orjson


@dataclass(frozen=True)
class Span:
    """One span. parent: None at a root. links: (trace, span). warnings: what Jaeger finds wrong with it."""

    service: str
    name: str
    trace: str
    id: str
    parent: str | None
    links: tuple[tuple[str, str], ...]
    tags: dict[str, Any]
    start_us: int
    duration_us: int
    warnings: tuple[str, ...]


class JaegerQueries:
    """url: of the query API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def close(self) -> None:
        self._http.close()

    def trace(self, id: str) -> list[Span]:
        """The spans of one trace in the order of their start; none if there is no such trace."""
        response = self._http.get(f"/api/traces/{id}")
        return [] if response.status_code == 404 else _spans(response.json()["data"][0])

    def traces(self, service: str, tags: dict[str, str] | None = None, **query: str) -> dict[str, list[Span]]:
        """Whole traces by id, of which a span of the service has all these tags and fits the query."""
        params = {"service": service, "limit": "1000", **query}
        if tags is not None:
            params["tags"] = orjson.dumps(tags).decode()
        response = self._http.get("/api/traces", params=params)
        assert response.status_code == 200, response.text
        return {trace["traceID"]: _spans(trace) for trace in response.json()["data"]}


def assert_whole(spans: list[Span]) -> Span:
    """One root, and every parent there. Returns the root."""
    ids = {span.id for span in spans}
    assert {span.parent for span in spans} - {None} <= ids
    warned = [(span.name, span.warnings) for span in spans if span.warnings]
    assert not warned, warned
    (root,) = (span for span in spans if span.parent is None)
    return root


def _spans(trace: dict[str, Any]) -> list[Span]:
    services = {id: process["serviceName"] for id, process in trace["processes"].items()}
    return sorted((_span(span, services[span["processID"]]) for span in trace["spans"]), key=lambda span: span.start_us)


def _span(told: dict[str, Any], service: str) -> Span:
    # of the references the parent is one in the trace itself; links are told as FOLLOWS_FROM
    parents = [other["spanID"] for other in told["references"] if other["refType"] == "CHILD_OF"]
    links = [(other["traceID"], other["spanID"]) for other in told["references"] if other["refType"] != "CHILD_OF"]
    return Span(
        service,
        told["operationName"],
        told["traceID"],
        told["spanID"],
        parents[0] if parents else None,
        tuple(links),
        {tag["key"]: tag["value"] for tag in told["tags"]},
        told["startTime"],
        told["duration"],
        tuple(told.get("warnings") or ()),
    )
