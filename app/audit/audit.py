"""A whole audit: one partition after another, so that memory holds the states of one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from app.audit.compare import Finding
from app.audit.partition import PartitionAudit, Tell
from app.audit.remembered import Remembered
from app.audit.repair import Repair
from app.audit.shards import ReplicaShard, find_replicas, quiet
from app.gateway.directory import Directory
from app.kafka.producer import RecordProducer
from app.kafka.reading import TopicReader
from app.kafka.start import check_kafka
from app.kafka.topics import CollectionTopics
from app.redis_link import RedisLink
from app.registry import Registry
from app.settings import Settings
from schemas.errors import BadRequest, RequestError


@dataclass(slots=True)
class Report:
    """What an audit found. problems: what could not be audited. left: what is still wrong after a repair."""

    replicas: list[str] = field(default_factory=list)
    documents: int = 0
    changes: int = 0
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    redis: bool = False
    produced: int = 0
    left: list[Finding] | None = None

    @property
    def status(self) -> int:
        """The exit status: 0 clean, or mended; 1 drift; 2 something could not be audited."""
        wrong = self.findings if self.left is None else self.left
        return 2 if self.problems else 1 if wrong else 0

    def counts(self) -> Counter[tuple[str, str | None, int]]:
        """How many, by kind, replica and partition."""
        return Counter((finding.kind, finding.replica, finding.partition) for finding in self.findings)

    def fields(self, examples: int) -> dict[str, Any]:
        """As JSON, with so many examples of each count."""
        counts = [
            {"kind": kind, "replica": replica, "shard": partition, "count": count}
            for (kind, replica, partition), count in sorted(self.counts().items(), key=str)
        ]
        return {
            "status": ("clean", "drift", "incomplete")[self.status],
            "replicas": self.replicas,
            "documents": self.documents,
            "changes": self.changes,
            "rows": self.rows,
            "redis": self.redis,
            "counts": counts,
            "examples": [finding.fields() for finding in self.examples(examples)],
            "problems": self.problems,
            "repair": None if self.left is None else {"produced": self.produced, "left": len(self.left)},
        }

    def examples(self, most: int) -> list[Finding]:
        """The first findings of each count; of those that a repair left, where there was one."""
        seen: Counter[tuple[str, str | None, int]] = Counter()
        chosen = []
        for finding in self.left or self.findings:
            group = (finding.kind, finding.replica, finding.partition)
            seen[group] += 1
            if seen[group] <= most:
                chosen.append(finding)
        return chosen


async def audit(
    settings: Settings,
    *,
    replicas: Sequence[str],
    partitions: Sequence[int],
    timeout_s: float,
    repair: bool,
    tell: Tell,
) -> Report:
    """Compare the topics with shards and Redis, and mend if asked to.

    replicas, partitions: empty for all. timeout_s: how long to wait for anybody who does not answer or is behind.
    Raises ServiceMissing, TopicsWrong, BrokerUnavailable or Rejected where nothing can be said at all.
    """
    quiet()
    report = Report()
    async with AsyncExitStack() as stack:
        link = RedisLink(settings)
        stack.callback(link.close)
        await asyncio.to_thread(link.require)
        topics = await asyncio.to_thread(check_kafka, settings, None)
        chosen = _chosen(partitions, topics)
        reader = stack.enter_context(TopicReader(settings, f"{settings.collection}-audit", silence_s=timeout_s))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        registry = Registry(link, settings.collection)
        directory = Directory(settings.collection, registry, settings.index_urls, session)
        try:
            report.replicas = await find_replicas(directory, replicas)
        except RequestError as error:
            report.problems.append(str(error))
        remembered = Remembered(settings, link, topics.epoch) if settings.redis_url else None
        report.redis = remembered is not None
        claims = await asyncio.to_thread(_claims, remembered, tell)  # before the topics: those then have it, too
        producer = RecordProducer(settings, f"{settings.collection}-audit") if repair else None
        if producer is not None:
            stack.callback(producer.close)
            report.left = []
        for partition in chosen:
            shards = [
                ReplicaShard(directory, session, topics.epoch, replica, partition, timeout_s)
                for replica in report.replicas
            ]
            own_claims = claims.pop(partition, {})
            one = PartitionAudit(settings, reader, topics.epoch, partition, shards, own_claims, remembered, tell)
            await _one(one, report, Repair(settings, one, producer, timeout_s, tell) if producer is not None else None)
    return report


async def _one(one: PartitionAudit, report: Report, repair: Repair | None) -> None:
    findings = await one.run()
    report.findings += findings
    report.documents += len(one.vectors.states)
    report.changes += len(one.changes.states)
    report.rows += one.rows
    if repair is not None and report.left is not None and findings:
        report.left += await repair.mend(findings)
        report.produced += repair.produced
    report.problems += one.problems


def _chosen(partitions: Sequence[int], topics: CollectionTopics) -> list[int]:
    if strangers := [partition for partition in partitions if partition >= topics.partitions]:
        raise BadRequest(f"--shard {strangers[0]}: the topics have {topics.partitions} partitions, from 0")
    return sorted(set(partitions)) or list(range(topics.partitions))


def _claims(remembered: Remembered | None, tell: Tell) -> dict[int, dict[str, int]]:
    claims: dict[int, dict[str, int]] = {}
    done = 0
    for page in remembered.claims() if remembered is not None else ():
        for partition, document_id, offset in page:
            claims.setdefault(partition, {})[document_id] = offset
        done += len(page)
        tell("reading Redis", done, 0)
    return claims
