"""Prometheus metrics of the roles: one class per role, each metric with its unit in the name and a meaning."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from app.model.runs import RunFacts
from app.observe.lag_gauges import LagGauges
from app.observe.shard_gauges import ShardGauges
from schemas.headers import STEPS

_FRESHNESS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 5, 15, 60, 300, 3600)
_STEP_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_LATENCY_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class EmbedMetrics:
    """Of the embed worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.events = Counter(
            "headrace_embed_events_total", "Events by what became of them", ["outcome"], registry=self.registry
        )
        self.chunks = Counter(
            "headrace_embed_chunks_total", "Chunks by where their vector came from", ["source"], registry=self.registry
        )
        self.cuts = Counter(
            "headrace_embed_cuts_total",
            "Documents by where the borders of their chunks came from",
            ["source"],
            registry=self.registry,
        )
        self.model_calls = Counter(
            "headrace_embed_model_calls_total", "Calls of the model for documents", registry=self.registry
        )
        self.model_seconds = Counter(
            "headrace_embed_model_seconds_total", "Seconds spent in the model", registry=self.registry
        )
        self.model_seconds_saved = Counter(
            "headrace_embed_model_seconds_saved_total",
            "Seconds the model would have taken for chunks that it was spared, an estimate",
            registry=self.registry,
        )
        self.runs = Counter(
            "headrace_embed_runs_total", "Runs through the model, several a call", registry=self.registry
        )
        self.tokens = Counter(
            "headrace_embed_tokens_total",
            "Tokens that the model computed, of texts and of padding",
            ["kind"],
            registry=self.registry,
        )
        self.run_texts = Histogram("headrace_embed_run_texts", "Texts per run", buckets=_SIZES, registry=self.registry)
        self.run_seconds = Histogram(
            "headrace_embed_run_seconds", "Time per run", buckets=_LATENCY_S, registry=self.registry
        )
        self.run_budget = Gauge(
            "headrace_embed_run_budget_tokens",
            "Most tokens of a run, padding included; less after memory ran out",
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "headrace_embed_queue_seconds",
            "From an event's arrival in the worker to the beginning of its batch",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.batch_events = Histogram(
            "headrace_embed_batch_events", "Events per batch", buckets=_SIZES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "headrace_embed_batch_seconds", "Time per batch", buckets=_LATENCY_S, registry=self.registry
        )
        self.waiting = Gauge(
            "headrace_embed_waiting_events", "Events waiting for the next batch", registry=self.registry
        )
        self.retries = Counter(
            "headrace_embed_retries_total", "Batches tried again after an outage", registry=self.registry
        )
        self.redis_seconds = Counter(
            "headrace_embed_redis_seconds_total", "Seconds batches spent in calls of Redis", registry=self.registry
        )
        self.redis_failures = Gauge(
            "headrace_embed_redis_failures", "Redis calls that failed since the start", registry=self.registry
        )

    def saw_run(self, run: RunFacts) -> None:
        """Count a run through the model; called by any thread."""
        self.runs.inc()
        self.tokens.labels("text").inc(run.tokens)
        self.tokens.labels("padding").inc(run.padded_tokens - run.tokens)
        self.run_texts.observe(run.texts)
        self.run_seconds.observe(run.seconds)
        self.run_budget.set(run.budget_tokens)


class IndexMetrics:
    """Of the index worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.records = Counter(
            "headrace_index_records_total", "Records by what became of them", ["outcome"], registry=self.registry
        )
        self.freshness = Histogram(
            "headrace_freshness_seconds",
            "From the change at its source to the first generation that can return it",
            buckets=_FRESHNESS_S,
            registry=self.registry,
        )
        self.latency = Histogram(
            "headrace_latency_seconds",
            "From the moment a change was sent to the first generation that can return it",
            buckets=_FRESHNESS_S,
            registry=self.registry,
        )
        self.deletes = Histogram(
            "headrace_delete_seconds",
            "From the moment a delete was sent to the first generation without the document",
            buckets=_FRESHNESS_S,
            registry=self.registry,
        )
        self.verified = Histogram(
            "headrace_verified_seconds",
            "From the moment a change was sent to the end of a search that returned it, of those searched for",
            buckets=_FRESHNESS_S,
            registry=self.registry,
        )
        step_seconds = Histogram(
            "headrace_step_seconds",
            "Time that documents spent in each step on their way",
            ["step"],
            buckets=_STEP_S,
            registry=self.registry,
        )
        self.steps = {name: step_seconds.labels(name) for name, _, _ in STEPS}
        self.objective = Counter(
            "headrace_objective_documents_total",
            "Documents by whether they were visible within the freshness objective",
            ["outcome"],
            registry=self.registry,
        )
        self.slow_untold = Counter(
            "headrace_objective_untold_total",
            "Slow documents that are neither searched for nor traced for being slow, as too many came in a second",
            registry=self.registry,
        )
        self.burn = Gauge(
            "headrace_objective_burn_ratio",
            "How fast missed documents use up what the objective allows; above 1 it is missed",
            ["window"],
            registry=self.registry,
        )
        self.probes = Counter(
            "headrace_index_probes_total",
            "Searches for documents that had become visible, by what came of them",
            ["outcome"],
            registry=self.registry,
        )
        self.apply_seconds = Histogram(
            "headrace_index_apply_seconds", "Time per transaction", buckets=_LATENCY_S, registry=self.registry
        )
        self.search_seconds = Histogram(
            "headrace_index_search_seconds",
            "Time per search of this worker's shards",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.shards = ShardGauges()
        self.registry.register(self.shards)
        self.repairs = Counter(
            "headrace_index_repairs_total",
            "Documents written to the vectors topic again because an older record was the last",
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "headrace_index_dead_letters_total",
            "Records that could not be applied and are dead letters",
            registry=self.registry,
        )
        self.audited = Counter(
            "headrace_index_audited_documents_total",
            "Documents compared with the topic in the background",
            registry=self.registry,
        )
        self.paused = Gauge(
            "headrace_index_paused",
            "1 while ingestion pauses: no room on the disk or in memory",
            registry=self.registry,
        )


class GatewayMetrics:
    """Of the search gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "headrace_http_requests_total", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self.search_seconds = Histogram(
            "headrace_search_seconds", "Time per search", buckets=_LATENCY_S, registry=self.registry
        )
        self.embed_seconds = Histogram(
            "headrace_search_embed_seconds",
            "Time to embed a query that was not cached",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.query_cache = Counter(
            "headrace_search_query_cache_total", "Query vectors by source", ["source"], registry=self.registry
        )
        self.partial = Counter("headrace_search_partial_total", "Answers that lacked a shard", registry=self.registry)
        self.staleness = Gauge(
            "headrace_search_staleness_seconds", "Staleness of the last answer", registry=self.registry
        )
        self.lag = LagGauges()
        self.registry.register(self.lag)
        self.delete_everywhere = Histogram(
            "headrace_delete_everywhere_seconds",
            "From sending a delete until no replica can return the document",
            buckets=_FRESHNESS_S,
            registry=self.registry,
        )
        self.deletes_missed = Counter(
            "headrace_delete_everywhere_missed_total",
            "Deletes of which that time is not known",
            ["reason"],
            registry=self.registry,
        )


def counts_by_label(metric: Counter | Gauge) -> dict[str, int]:
    """Values by the metric's one label."""
    (family,) = metric.collect()
    counted = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return {next(iter(sample.labels.values())): int(sample.value) for sample in counted}


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """The registry and its content type: OpenMetrics, with exemplars, where `accept` asks for it, else plain text."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
