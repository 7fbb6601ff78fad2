"""In the end: every document of the log against every replica, asked of the index workers themselves."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.soak_cluster import REPLICAS, Cluster
from bench.soak_load import number_of, word_of
from bench.soak_model import State, Truth, read_partition

_CAUGHT_UP_WITHIN_S = 180.0
_WORDS_MS = 30_000  # of a machine with ten things to do for each core
_ANSWER_S = 40.0
_MOST_KEPT = 100


@dataclass(slots=True)
class Audit:
    """drift: what is not as it must be, by kind. checked: documents × replicas."""

    checked: int = 0
    drift: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def found(self, kind: str, words: str) -> None:
        """One piece of drift."""
        self.drift[kind] += 1
        if len(self.findings) < _MOST_KEPT:
            self.findings.append(f"{kind}: {words}")


def wait_caught_up(cluster: Cluster, ends: dict[int, int]) -> dict[str, str]:
    """Wait until every shard of every replica has applied the changes before `ends`; says which have not, and why."""
    deadline = time.monotonic() + _CAUGHT_UP_WITHIN_S
    while True:
        cluster.tend()
        behind: dict[str, str] = {}
        for replica in REPLICAS:
            shards = _shards(cluster, replica)
            for partition, end in ends.items():
                shard = shards.get(partition)
                applied = -1 if shard is None or shard[1]["applied_offset"] is None else shard[1]["applied_offset"]
                if shard is None or applied < end - 1 or shard[1]["state"] != "ready":
                    said = (
                        "no worker has it" if shard is None else f"{shard[1]['state']}, applied {applied} of {end - 1}"
                    )
                    behind[f"replica {replica} shard {partition}"] = said
        if not behind or time.monotonic() > deadline:
            return behind
        time.sleep(0.2)


def audit(cluster: Cluster, truth: Truth, replicas: tuple[str, ...] = REPLICAS) -> Audit:
    """Compare. Nothing may be published meanwhile, and every shard must have caught up."""
    result = Audit()
    for replica in replicas:
        shards = _shards(cluster, replica)
        for partition, (_, shard) in shards.items():
            expected = truth.alive(partition)
            if shard["documents"] != expected:
                told = f"{shard['documents']} documents, {expected} published"
                result.found("miscounted", f"replica {replica} shard {partition}: {told}")
        for id, state in truth.states.items():
            url = shards[truth.partitions[id]][0]
            _check(cluster.http, url, f"{id} at {truth.partitions[id]}, replica {replica}", id, state, result)
            _check_search(cluster.http, url, truth, id, replica, result)
            result.checked += 1
    return result


def dead_letters(cluster: Cluster, truth: Truth) -> Audit:
    """Every event that is no change must be a dead letter, and nothing else. Twice is allowed."""
    found: set[tuple[int, int]] = set()
    for message in read_partition(cluster.settings.brokers, cluster.settings.dlq_topic, 0):
        headers = dict(message.headers())
        partition, offset = (headers[f"__connect.errors.{name}"] for name in ("partition", "offset"))
        found.add((int(partition), int(offset)))
    result = Audit(checked=len(truth.garbage))
    for place in sorted(truth.garbage - found):
        result.found("lost", f"the event at {place} is no change, and no dead letter")
    for place in sorted(found - truth.garbage):
        result.found("wrong", f"the event at {place} is a change, and became a dead letter")
    return result


def _shards(cluster: Cluster, replica: str) -> dict[int, tuple[str, dict[str, Any]]]:
    """By partition the URL of its worker and what that says of it."""
    found = {}
    for role in cluster.index_roles(replica):
        try:
            answer = cluster.http.get(f"{role.url}/shards", timeout=5).json()
        except httpx.HTTPError:
            continue
        found |= {shard["partition"]: (role.url, shard) for shard in answer["shards"]}
    return found


def _check(http: httpx.Client, url: str, where: str, id: str, state: State, result: Audit) -> None:
    answer = http.get(f"{url}/shards/document", params={"id": id}).json()
    document = None if answer["document"] is None or answer["deleted"] else answer["document"]
    change = state.change
    wanted = "deleted" if change is None else f"rev {state.rev}"
    context = f"{where}: {wanted} since offset {state.offset}"
    if document is None:
        if change is not None:
            result.found("lost", f"{context}, {'a deleted row' if answer['document'] else 'no row'} instead")
        return
    held = f"rev {document['metadata'].get('rev')} of offset {document['source_offset']}"
    if change is None:
        result.found("ghosts", f"{context}, {held} instead")
    elif document["metadata"].get("rev") != state.rev:
        result.found("stale", f"{context}, {held} instead")
    elif _content(document) != (change.text, change.title, change.metadata):
        result.found("wrong", f"{context}: {_content(document)} instead of {change}")
    elif document["version"] != state.floor:  # the product keeps and tells the highest one, as ADR 0009 says
        result.found("version", f"{context}: version {document['version']} instead of {state.floor}")


def _check_search(http: httpx.Client, url: str, truth: Truth, id: str, replica: str, result: Audit) -> None:
    """Whether a search by the document's own word finds it once, or not at all if it is deleted."""
    partition, wanted = truth.partitions[id], truth.states[id].change is not None
    body = {"mode": "keyword", "query": word_of(number_of(id)), "vector": None, "fingerprint": None, "k": 5}
    body |= {"filter": None, "max_staleness_ms": None, "timeout_ms": _WORDS_MS, "shards": [partition]}
    body |= {"min_offsets": {str(partition): truth.ends[partition] - 1}}  # words come a little after rows
    answer = http.post(f"{url}/shards/search", json=body, timeout=_ANSWER_S).json()["shards"][str(partition)]
    hits = [hit["id"] for hit in answer["hits"]] if "hits" in answer else [answer["error"]]
    times = hits.count(id)
    if times > 1:
        result.found("duplicates", f"{id}, replica {replica}: {times} times in one answer")
    elif times != wanted:
        result.found("unsearchable" if wanted else "ghosts", f"{id}, replica {replica}: found {hits} by its word")


def _content(document: dict[str, Any]) -> tuple[Any, ...]:
    return document["text"], document["title"], document["metadata"]
