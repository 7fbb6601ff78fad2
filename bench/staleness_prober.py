"""Publishes markers to every partition, asks the gateway for them all the time, and judges what answers report."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from app.kafka.producer import Position
from bench.client import SearchClient, wait_applied
from bench.publish import Reached
from bench.staleness_truth import Ledger, Tally
from producers.publisher import DocumentPublisher
from schemas.document_change import DocumentChange
from schemas.errors import ServiceMissing

MARKERS_PER_PARTITION = 4  # documents, changed in turn
BETWEEN = "between the phases"
_CANDIDATES_PER_PARTITION = 40
_WITHIN_S = 60.0
_PAUSE_S = 0.02  # between two questions
_FINDINGS = 20


class StalenessProber:
    """Use it as a context manager: from then on it publishes and asks, in two threads.

    per_partition_s: markers a second in each partition; may be changed at any time, 0 stops them. `begin` names what
    is judged from then on. Markers have texts that are known, so they reach the model only behind other documents.
    """

    def __init__(self, publisher: DocumentPublisher, gateway: str, partitions: int) -> None:
        self.per_partition_s = 0.0
        self.tallies: dict[str, Tally] = {}
        self.findings: list[str] = []
        self._publisher = publisher
        self._gateway = gateway
        self._partitions = partitions
        self._homes: dict[str, int] = {}
        self._ledgers = [Ledger() for _ in range(partitions)]
        self._version = 0
        self._stop = threading.Event()
        self._latest: dict[int, tuple[float, float]] = {}
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in (self._publish, self._ask)]
        self.begin(BETWEEN)

    def __enter__(self) -> StalenessProber:
        self._homes = self._place()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def begin(self, phase: str, by_design_ms: float = 0.0) -> None:
        """What is judged from now on belongs to this phase."""
        self.tallies.setdefault(phase, Tally(by_design_ms))
        self._phase = phase

    def check(self) -> None:
        """Raises what ended one of the threads."""
        if self._error is not None:
            raise self._error

    def fresh(self, within_ms: float, since: float) -> bool:
        """Whether every shard has reported at most that after `since` (time.monotonic())."""
        latest = list(self._latest.values())
        return len(latest) == len(self._ledgers) and all(at > since and ms <= within_ms for at, ms in latest)

    @property
    def went_back(self) -> int:
        """How often an answer had an older marker than one before it, or none."""
        return sum(ledger.went_back for ledger in self._ledgers)

    def ids(self, prefix: str) -> dict[int, str]:
        """An id of each partition, by Kafka's own partitioner."""
        return {home: id for id, home in self._placed(prefix, 1).items()}

    def _place(self) -> dict[str, int]:
        homes = self._placed("marker", MARKERS_PER_PARTITION)
        reached = Reached()
        for id in homes:
            self._publisher.send(_marker(id, 0), reached.confirmed)
        self._publisher.flush(_WITHIN_S)
        wait_applied(self._gateway, reached.offsets, _WITHIN_S)
        return homes

    def _placed(self, prefix: str, count: int) -> dict[str, int]:
        """`count` ids of each partition, found by publishing many. They hold the prefix, but are no markers yet."""
        names = [f"{prefix}-{number}" for number in range(_CANDIDATES_PER_PARTITION * self._partitions)]
        futures = [self._publisher.upsert(name, prefix) for name in names]
        chosen: dict[str, int] = {}
        found: Counter[int] = Counter()
        for name, future in zip(names, futures, strict=True):
            partition = future.result(_WITHIN_S).partition
            if found[partition] < count:
                found[partition] += 1
                chosen[name] = partition
        if len(chosen) < count * self._partitions:
            raise ServiceMissing(f"of {len(names)} ids not every partition got {count}; has the topic been changed?")
        return chosen

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 `check` raises it in the main thread
            self._error = error

    def _publish(self) -> None:
        by_home: defaultdict[int, list[str]] = defaultdict(list)
        for id, home in self._homes.items():
            by_home[home].append(id)
        while not self._stop.is_set():
            per_s = self.per_partition_s * self._partitions
            if self._stop.wait(1 / per_s if per_s else 0.1) or not per_s:
                continue
            self._version += 1
            home = self._version % self._partitions
            self._send(home, by_home[home][self._version // self._partitions % MARKERS_PER_PARTITION], self._version)

    def _send(self, home: int, id: str, version: int) -> None:
        ledger = self._ledgers[home]

        def delivered(position: Position | None, _: Exception | None) -> None:
            if position is None:
                ledger.failed(id, version)
            else:
                ledger.confirmed(id, version, _now_ms())

        ledger.sent(id, version, _now_ms())
        self._publisher.send(_marker(id, version), delivered)

    def _ask(self) -> None:
        client = SearchClient(self._gateway)
        asked = {"query": "marker", "mode": "vector", "k": len(self._homes), "filter": {"marker": True}}
        body = orjson.dumps(asked)
        while not self._stop.wait(_PAUSE_S):
            phase, asked_ms = self._phase, _now_ms()
            try:
                status, content = client.post(body)
            except (OSError, http.client.HTTPException) as error:
                client.close()
                self.tallies[phase].not_answered[type(error).__name__] += 1
                continue
            if status == 200:
                self._judge(phase, asked_ms, orjson.loads(content))
            else:
                self.tallies[phase].not_answered[f"status {status}"] += 1
        client.close()

    def _judge(self, phase: str, asked_ms: float, answer: Mapping[str, Any]) -> None:
        tally = self.tallies[phase]
        found: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for hit in answer["hits"]:
            found[self._homes[hit["id"]]][hit["id"]] = hit["version"]
        for partition, ledger in enumerate(self._ledgers):
            said = answer["freshness"]["shards"].get(str(partition))
            if said is None or said["as_of"] is None:
                tally.not_answered["a shard was missing"] += 1
                continue
            as_of_ms = round(datetime.fromisoformat(said["as_of"]).timestamp() * 1000)
            judged = ledger.judge(found[partition], asked_ms, as_of_ms, said["staleness_ms"])
            tally.judged.append(judged)
            self._latest[partition] = time.monotonic(), judged.reported_ms
            if judged.lie_ms > 0:
                self._tell(f"{phase}, shard {partition}, applied offset {said['applied_offset']}", judged.lie_ms)

    def _tell(self, where: str, lie_ms: float) -> None:
        """Once for each state of a shard, however often it is asked."""
        finding = f"{where}: as_of is {lie_ms:.1f} ms later than a marker that was confirmed and is not there"
        if finding not in self.findings and len(self.findings) < _FINDINGS:
            self.findings.append(finding)


def _marker(id: str, version: int) -> DocumentChange:
    """The same text each time: it is the metadata that change."""
    return DocumentChange(id=id, text=f"{id} marker", metadata={"marker": True, "number": version}, version=version)


def _now_ms() -> float:
    return time.time_ns() / 1e6
