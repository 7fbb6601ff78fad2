"""The embed pipeline with a producer that writes to a list, and a model of the index that folds that list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.embed.applied import AppliedState, AppliedStore, MemoryApplied, Span
from app.embed.cache import Caches, TextCache
from app.embed.chunks import ChunkEmbedder
from app.embed.claims import Claims
from app.embed.coalesce import content_hash
from app.embed.economics import Economics
from app.embed.events import Work
from app.embed.pipeline import EmbedPipeline
from app.embed.records import RecordFactory
from app.embed.spans import BatchSpans
from app.event import Event
from app.kafka.producer import Position, Record
from app.model.chunker import Chunker
from app.model.hashing import HashingEmbedder
from app.observe.metrics import EmbedMetrics
from app.observe.tracing import Tracing, new_traceparent
from app.order import DocumentOrder
from app.redis_link import RedisLink
from app.settings import Settings
from schemas.dead_letter import place_of
from schemas.document_change import DocumentChange, decode_change
from schemas.errors import UnembeddableText
from schemas.headers import RecordHeaders, decode_headers
from schemas.vector_record import VectorRecord, decode_vector_record

SETTINGS = Settings(_env_file=None, redis_url=None, otlp_endpoint=None)
NOW_MS = 1_700_000_000_000


def event(offset: int, document: str, text: str | None = None, *, partition: int = 0, **fields: Any) -> Event:
    """An upsert if there is a text, a delete else."""
    change = {"op": "delete" if text is None else "upsert", "id": document, "text": text} | fields
    value = orjson.dumps({name: value for name, value in change.items() if value is not None})
    return raw_event(offset, document.encode(), value, partition=partition)


def raw_event(
    offset: int, key: bytes | None, value: bytes | None, *, partition: int = 0, headers: Iterable[Any] = ()
) -> Event:
    return Event(partition, offset, key, value, tuple(headers), NOW_MS + offset, (NOW_MS + offset) * 1_000_000)


def replayed(source: Event, place: int) -> Event:
    """The event as one that repeats a dead letter."""
    return source._replace(headers=(*source.headers, ("headrace-dlq-place", b"%d" % place)))


def place_among(source: Event, change: DocumentChange) -> int:
    """The source offset that orders an event among the changes of its document."""
    return source.offset if change.version is not None else place_of(source.headers, source.offset)


def work_of(source: Event) -> Work:
    change = decode_change(source.key, source.value)
    return Work(source, change, content_hash(change), source.offset, source.offset, new_traceparent())


@dataclass
class LogProducer:
    """Fulfils Producer. log: what was confirmed. lose: the delivery of the record at this place in a call fails. deaf:
    partitions that confirm nothing."""

    log: list[Record] = field(default_factory=list)
    lose: int | None = None
    error: Exception | None = None
    deaf: set[int | None] = field(default_factory=set)

    def deliver(self, records: Sequence[Record]) -> Future[list[Position]]:
        done: Future[list[Position]] = Future()
        written = records if self.lose is None else records[: self.lose]
        self.log += written
        if any(record.partition in self.deaf for record in records):
            return done
        if self.error is not None and self.lose is not None:
            done.set_exception(self.error)
        else:
            done.set_result([Position(record.topic, record.partition or 0, 0) for record in written])
        return done

    def take(self) -> list[Record]:
        """What came since the last call."""
        taken, self.log = self.log, []
        return taken


class MoodyEmbedder(HashingEmbedder):
    """Fails on texts that hold a word, or on all. error: what it raises; None: the vector is not finite."""

    def __init__(self, poison: str | None = None, error: Callable[[int], Exception] | None = None) -> None:
        super().__init__(dim=16)
        self.poison = poison
        self.error = error
        self.seen: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen += texts
        bad = [at for at, text in enumerate(texts) if self.poison is not None and self.poison in text]
        if bad and self.error is not None:
            raise self.error(bad[0])
        vectors = super().embed(texts)
        vectors[bad] = np.nan
        return vectors


class GappyApplied(MemoryApplied):
    """What Redis keeps, in a few lines: it may be away, crash beside a write, or come back as an older copy."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.crash: str | None = None
        self._reached: dict[int, tuple[int, int]] = {}

    def get(self, works: Sequence[Work]) -> list[AppliedState | None]:
        return [None] * len(works) if self.away else super().get(works)

    def complete_since(self, spans: Mapping[int, Span]) -> dict[int, int]:
        known = {} if self.away else self._reached
        return {p: known[p][0] for p, span in spans.items() if p in known and known[p][1] >= span.first}

    def put(self, works: Sequence[Work], states: Sequence[AppliedState], spans: Mapping[int, Span]) -> None:
        if self.crash == "before":
            raise KeyboardInterrupt
        if not self.away:
            super().put(works, states, spans)
            for partition, span in spans.items():
                since, reached = self._reached.get(partition, (0, -1))
                joined = reached >= span.first
                self._reached[partition] = (since, max(reached, span.end)) if joined else (span.first, span.end)
        if self.crash == "after":
            raise KeyboardInterrupt

    def copy(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        return dict(self._states), dict(self._reached)

    def restore(self, copy: tuple[dict[Any, Any], dict[Any, Any]]) -> None:
        self._states, self._reached = dict(copy[0]), dict(copy[1])


def at_position(position: int) -> Exception:
    return UnembeddableText("too odd", position)


@dataclass
class Parts:
    """A pipeline and everything it is made of."""

    embedder: MoodyEmbedder = field(default_factory=MoodyEmbedder)
    applied: AppliedStore = field(default_factory=MemoryApplied)
    producer: LogProducer = field(default_factory=LogProducer)
    metrics: EmbedMetrics = field(default_factory=EmbedMetrics)
    cache_bytes: int = 2**20
    max_text_bytes: int = 10_000
    max_record_bytes: int = 100_000
    owned: Callable[[int], bool] = lambda _: True
    dtype: str = "float16"
    settings: Settings = SETTINGS

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As a worker that was killed comes back: what was in memory is gone, Redis and Kafka are not."""
        link = self.link = RedisLink(self.settings)
        vectors, cuts = (
            TextCache(link, name, self.embedder.fingerprint, self.cache_bytes, 1) for name in ("vector", "cut")
        )
        self.caches = Caches(link, vectors, cuts)
        chunker, claims = Chunker(self.embedder.tokenizer, 32), Claims(link, vectors, lambda: False)
        economics = Economics(self.metrics)
        self.chunks = ChunkEmbedder(self.embedder, chunker, self.caches, claims, economics, self.dtype)
        self.pipeline = EmbedPipeline(
            self.chunks,
            link,
            self.applied,
            RecordFactory("d.changes", "d.vectors", "d.dlq", "epoch", self.embedder.fingerprint),
            self.producer,
            BatchSpans(Tracing(SETTINGS, "embed"), "d.changes", "d-embed"),
            self.metrics,
            max_text_bytes=self.max_text_bytes,
            max_record_bytes=self.max_record_bytes,
        )

    def process(self, *events: Event) -> set[int]:
        return self.pipeline.process(events, lambda partition: self.owned(partition))

    def sources(self, what: str) -> dict[str, float]:
        """How many `chunks` or `cuts` came from where."""
        (metric,) = getattr(self.metrics, what).collect()
        return {item.labels["source"]: item.value for item in metric.samples if item.name.endswith("_total")}

    def outcome(self, name: str) -> float:
        """How many events ended so."""
        return self.metrics.registry.get_sample_value("headrace_embed_events_total", {"outcome": name}) or 0.0


@dataclass
class Told:
    """One record of the vectors topic, read back."""

    record: Record
    headers: RecordHeaders
    document: VectorRecord | None

    @property
    def id(self) -> str:
        return (self.record.key or b"").decode()


def vectors(records: Iterable[Record]) -> list[Told]:
    """The records of the vectors topic."""
    return [
        Told(
            record,
            headers := decode_headers(record.headers),
            decode_vector_record(record.value or b"") if headers.kind == "document" else None,
        )
        for record in records
        if record.topic == "d.vectors"
    ]


def dead(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.topic == "d.dlq"]


Content = tuple[str, str | None, dict[str, Any]] | None


@dataclass
class IndexModel:
    """What a shard does with its records, in a few lines. contents: None for a deleted document."""

    orders: dict[tuple[int, str], DocumentOrder] = field(default_factory=dict)
    contents: dict[tuple[int, str], Content] = field(default_factory=dict)

    def apply(
        self, document: tuple[int, str], order: DocumentOrder, content: Content, floor: int | None = None
    ) -> None:
        held = self.orders.get(document)
        if held is None or order.supersedes(held):
            self.orders[document] = (order if held is None else order.after(held)).with_floor(floor)
            self.contents[document] = content

    def apply_change(self, partition: int, offset: int, change: DocumentChange) -> None:
        content = None if change.op == "delete" else (change.text or "", change.title, change.metadata)
        self.apply((partition, change.id), DocumentOrder(change.version, offset), content)

    def apply_event(self, source: Event) -> None:
        change = decode_change(source.key, source.value)
        self.apply_change(source.partition, place_among(source, change), change)

    def apply_record(self, told: Told) -> None:
        if told.headers.kind == "watermark":
            return
        document = told.document
        content = None if document is None else (document.text, document.title, document.metadata)
        order = DocumentOrder(told.headers.version, told.headers.source_offset)
        document_id = (told.headers.source_partition, told.id)
        self.apply(document_id, order, content, told.headers.version_floor)

    def living(self) -> dict[tuple[int, str], Content]:
        """What can be found."""
        return {document: content for document, content in self.contents.items() if content is not None}


def folded(records: Iterable[Record]) -> dict[tuple[int, str], Content]:
    """What can be found once all records are applied."""
    index = IndexModel()
    for told in vectors(records):
        index.apply_record(told)
    return index.living()


def one_by_one(events: Iterable[Event]) -> dict[tuple[int, str], Content]:
    """What can be found once each event was applied alone, in order."""
    index = IndexModel()
    for source in events:
        index.apply_event(source)
    return index.living()
