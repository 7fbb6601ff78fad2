"""Where the time of each probe went: the stage times that its vector record carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition

from app.kafka.config import librdkafka_config
from app.settings import Settings
from bench.probe import Sample
from schemas.headers import Stage, decode_headers

_WITHIN_S = 10.0
_BATCH = 1000

# (what, from, to); the last two ends are not in the record: see `spent_ms`
STEPS = (
    ("waiting in changes", "produced", "consumed"),
    ("waiting for its batch, comparing", "consumed", "looked_up"),
    ("cutting, embedding", "looked_up", "embedded"),
    ("encoding", "embedded", "published"),
    ("on its way to the shard, its row written", "published", "indexed"),
    ("until an answer had it", "indexed", "answered"),
)


def stage_times(settings: Settings, prefix: str) -> dict[int, dict[Stage, int]]:
    """Stage times in ns since the epoch, by version, of all records whose document id starts with `prefix`."""
    config = {"group.id": "bench-stages", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer(librdkafka_config(settings, "bench-stages") | config)
    try:
        topics = consumer.list_topics(settings.vectors_topic, timeout=_WITHIN_S).topics
        open_partitions = set(topics[settings.vectors_topic].partitions)
        consumer.assign([TopicPartition(settings.vectors_topic, number, 0) for number in open_partitions])
        found: dict[int, dict[Stage, int]] = {}
        while open_partitions:
            messages = consumer.consume(_BATCH, timeout=_WITHIN_S)
            if not messages:
                break
            for message in messages:
                if message.error():
                    open_partitions.discard(message.partition())  # its end
                elif (message.key() or b"").startswith(prefix.encode()):
                    headers = decode_headers(message.headers() or ())
                    found[headers.version or 0] = headers.stages
        return found
    except KafkaException:
        return {}
    finally:
        consumer.close()


def spent_ms(samples: Sequence[Sample], times: dict[int, dict[Stage, int]]) -> dict[str, dict[str, float]]:
    """p50 and p99 of each step of the probes of one phase. `indexed` is the hit's indexed_time, whole milliseconds."""
    spent: dict[str, list[float]] = {what: [] for what, _, _ in STEPS}
    for sample in samples:
        if sample.version not in times or sample.indexed_ms is None or sample.answered_ms is None:
            continue
        ends: dict[str, float] = {name: value / 1e6 for name, value in times[sample.version].items()}
        ends |= {"indexed": sample.indexed_ms, "answered": sample.answered_ms}
        for what, begins, until in STEPS:
            if begins in ends and until in ends:
                spent[what].append(ends[until] - ends[begins])
    return {what: _spread(values) for what, values in spent.items() if values}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(np.asarray(values), (50, 99))
    return {"p50": float(p50), "p99": float(p99)}
