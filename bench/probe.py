"""Probes of freshness: publish a version of a document, then ask until a search returns that version."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from bench.client import SearchClient
from bench.publish import upsert
from producers.publisher import DocumentPublisher

_GIVE_UP_S = 30.0
_PAUSE_S = 0.001
# beside a wait of a second, asking every millisecond would be the load: never more precise than this share of it
_PAUSE_RATIO = 0.05
_AT_ONCE = 32  # probes whose answer is still awaited


@dataclass(frozen=True, slots=True)
class Probe:
    """One version of one document, and a search by the vector of its text."""

    id: str
    version: int
    text: str
    search: bytes


@dataclass(slots=True)
class Sample:
    """What one probe saw. freshness_ms: source event → the answer that has it; None: not within 30 s.

    own_ms: the same as the system tells it in the hit, indexed_time − event_time, whole milliseconds.
    indexed_ms, answered_ms: since the epoch. query_ms: each search of the probe.
    """

    version: int
    freshness_ms: float | None = None
    own_ms: float | None = None
    indexed_ms: float | None = None
    answered_ms: float | None = None
    query_ms: list[float] = field(default_factory=list)


class Prober:
    """Open loop: a probe starts when it is due, whether or not the one before has been answered."""

    def __init__(self, publisher: DocumentPublisher, gateway: str) -> None:
        self._publisher = publisher
        self._gateway = gateway
        self._clients = threading.local()

    def run(self, probes: Sequence[Probe], per_second: float) -> list[Sample]:
        """One sample per probe."""
        waiting: list[Future[Sample]] = []
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            began = time.monotonic()
            for number, probe in enumerate(probes):
                time.sleep(max(0.0, began + number / per_second - time.monotonic()))
                waiting.append(threads.submit(self._probe, probe))
        return [future.result() for future in waiting]

    def queries(self, probes: Sequence[Probe], pause_s: float) -> list[float]:
        """Milliseconds of one search after another for what is there already: the way of a query alone."""
        took = []
        for probe in probes:
            time.sleep(pause_s)
            began = time.perf_counter()
            self._client().search(probe.search)
            took.append((time.perf_counter() - began) * 1000)
        return took

    def _probe(self, probe: Probe) -> Sample:
        client = self._client()
        sample = Sample(probe.version)
        began = time.perf_counter()
        self._publisher.publish(upsert(probe.id, probe.text, version=probe.version))
        while (elapsed_s := time.perf_counter() - began) < _GIVE_UP_S:
            time.sleep(max(_PAUSE_S, elapsed_s * _PAUSE_RATIO))
            asked = time.perf_counter()
            try:
                answer = client.search(probe.search)
            except (OSError, http.client.HTTPException):
                client.close()
                continue
            answered = time.perf_counter()
            sample.query_ms.append((answered - asked) * 1000)
            if hit := _own_hit(answer, probe):
                sample.freshness_ms = (answered - began) * 1000
                sample.answered_ms = time.time_ns() / 1e6
                sample.indexed_ms = _ms(hit["indexed_time"])
                sample.own_ms = sample.indexed_ms - _ms(hit["event_time"])
                break
        return sample

    def _client(self) -> SearchClient:
        if not hasattr(self._clients, "mine"):
            self._clients.mine = SearchClient(self._gateway)
        client: SearchClient = self._clients.mine
        return client


def probe_body(vector: Sequence[float]) -> bytes:
    """The search of a probe: a few hits suffice, its own text is the nearest there can be."""
    return orjson.dumps({"vector": list(map(float, vector)), "k": 5})


def _own_hit(answer: dict[str, Any] | None, probe: Probe) -> dict[str, Any] | None:
    hits = answer["hits"] if answer else ()
    return next((hit for hit in hits if hit["id"] == probe.id and hit["version"] == probe.version), None)


def _ms(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() * 1000
