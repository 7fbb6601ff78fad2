"""Every setting of every role, in one typed object.

Order of precedence: command-line flag, environment (`HEADRACE_…`), `.env` in the working directory, default.
Nothing reads the environment but `load_settings`, and nothing calls that but the commands.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.errors import SettingsError

PREFIX = "HEADRACE_"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]


def _setting(default: Any, meaning: str, unit: str = "", **limits: Any) -> Any:
    return Field(default=default, description=meaning, json_schema_extra={"unit": unit}, **limits)


class Settings(BaseSettings):
    """All settings. A field's description says what it means, its `unit` in what it is counted."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    # --- what is indexed, and where
    collection: Name = _setting("documents", "name of the collection: topics are <collection>.changes, .vectors, .dlq")
    partitions: int = _setting(
        4, "partitions of .changes and .vectors when `topics create` makes them", ge=1, le=10_000
    )
    replication_factor: int = _setting(
        1, "replicas of each topic partition when `topics create` makes them", ge=1, le=32
    )
    tombstone_retention_hours: int = _setting(
        168,
        "how long Kafka keeps tombstones of .vectors; an index replica may be away this long",
        "hours",
        ge=168,
    )
    max_record_bytes: int = _setting(
        10 * 2**20, "largest record on any topic (topic, producer and consumer)", "bytes", ge=2**20, le=2**30
    )
    max_text_bytes: int = _setting(
        4 * 2**20, "largest text of a document; a longer one is dead-lettered", "bytes", ge=1, le=2**29
    )

    # --- Kafka
    brokers: str = _setting("localhost:9092", "Kafka bootstrap servers, host:port, comma-separated")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _setting(
        "PLAINTEXT", "how to talk to Kafka"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = _setting("PLAIN", "SASL mechanism")
    kafka_sasl_username: str | None = _setting(None, "SASL user")
    kafka_sasl_password: SecretStr | None = _setting(None, "SASL password")
    kafka_ssl_ca: Path | None = _setting(None, "file with the CA certificates of the brokers; default: the system's")
    kafka_ssl_certificate: Path | None = _setting(None, "file with the client's certificate")
    kafka_ssl_key: Path | None = _setting(None, "file with the client's private key")
    kafka_ssl_key_password: SecretStr | None = _setting(None, "password of the client's private key")
    session_timeout_ms: int = _setting(
        30_000, "a worker silent for this long loses its partitions to the others", "ms", ge=1000, le=600_000
    )
    stall_timeout_s: float = _setting(
        300.0,
        "a stage that gets nowhere for this long ends its process, to be started again by its supervisor; /readyz is "
        "red from a quarter of it on; 0: never",
        "s",
        ge=0,
    )
    embedded_broker_id: str | None = _setting(
        None,
        "set by `headrace demo`: names one run of the embedded broker, which has no topic administration",
    )

    # --- Redis
    redis_url: str | None = _setting(
        "redis://localhost:6379/0", "Redis (redis://, rediss:// or unix://); empty: run without Redis"
    )
    redis_password: SecretStr | None = _setting(None, "Redis password, if it is not part of the URL")
    redis_ssl_ca: Path | None = _setting(None, "file with the CA certificates for rediss://; default: the system's")
    redis_timeout_ms: int = _setting(
        200,
        "longest wait for one Redis call; Redis is an optimisation and must not hold anything up",
        "ms",
        ge=1,
    )
    redis_batch_ms: int = _setting(
        400, "longest that Redis may hold up one batch; then it is left alone for a while", "ms", ge=1
    )
    applied_ttl_hours: int = _setting(
        720, "how long Redis remembers the last applied state of a document", "hours", ge=1
    )
    cache_ttl_hours: int = _setting(720, "how long Redis keeps the vector of a chunk", "hours", ge=1)
    cache_memory_mb: int = _setting(64, "size of the embed worker's in-process vector cache", "MiB", ge=0)

    # --- model
    model: str = _setting(
        "sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers model: a hub name or a folder"
    )
    runtime: Literal["auto", "openvino", "onnx", "torch", "reference", "http", "hashing"] = _setting(
        "auto",
        "auto: the fastest here that agrees with the reference; openvino, onnx, torch: that one; reference: "
        "sentence-transformers itself (needs torch); http: a server with OpenAI's API; hashing: a fake for tests",
    )
    precision: Literal["auto", "f32", "bf16"] = _setting(
        "auto", "auto: bf16 where the CPU has AMX or the GPU computes in it, else f32"
    )
    model_threads: int = _setting(0, "CPU threads of the model; 0: all cores", "threads", ge=0)
    model_cache_dir: Path | None = _setting(
        None, "folder of what `headrace model prepare` makes; default: headrace/models in the user's cache folder"
    )
    max_chunk_tokens: int = _setting(256, "largest chunk; the model's own limit if that is less", "tokens", ge=16)

    # --- model behind HTTP (runtime=http)
    embeddings_url: str | None = _setting(
        None, "server with OpenAI's embeddings API, up to and with its version: https://api.openai.com/v1"
    )
    embeddings_api_key: SecretStr | None = _setting(None, "key of that server, sent as a bearer token; never logged")
    embeddings_dimensions: int | None = _setting(
        None, "shorter vectors, where the server's model can; default: as the model makes them", "dimensions", ge=1
    )
    embeddings_tokenizer: str | None = _setting(
        None,
        "whose tokens measure chunks for the server: a model folder or hub name with a tokenizer.json; default: words "
        "and pieces of words are counted",
    )
    embeddings_batch_texts: int = _setting(64, "most texts in one request to the server", "texts", ge=1, le=2048)
    embeddings_concurrency: int = _setting(4, "requests to the server at the same time", "requests", ge=1, le=64)
    embeddings_timeout_ms: int = _setting(30_000, "longest wait for one answer of the server", "ms", ge=1)

    # --- embed worker
    batch_max_documents: int = _setting(512, "most events in one batch of the embed worker", "events", ge=1)
    batch_max_bytes: int = _setting(
        0,
        "most text in one batch: bounds how long a new event waits for the batch before it; 0: what suits the model's "
        "runtime, 64 KiB on a CPU, 1 MiB on a GPU or behind HTTP",
        "bytes",
        ge=0,
    )
    inbox_max_events: int = _setting(
        4096, "events that may wait in the embed worker before it stops fetching", "events", ge=1
    )
    embed_host: str = _setting("127.0.0.1", "address on which the embed worker serves /readyz and /metrics")
    embed_port: int = _setting(8082, "port of the same; 0: any free one", ge=0, le=65535)

    # --- index worker
    replica: Name = _setting("0", "name of this replica of the index; each replica is a consumer group of its own")
    data_dir: Path = _setting(Path(".headrace/data"), "folder of the shard files")
    index_host: str = _setting("127.0.0.1", "address on which the index worker serves its shards to the gateway")
    index_port: int = _setting(8081, "port of the same; 0: any free one", ge=0, le=65535)
    index_url: str | None = _setting(
        None, "URL under which gateways reach this index worker; default: http://<index_host>:<port>"
    )
    hnsw_m: int = _setting(16, "HNSW parameter M: links per node", ge=4, le=128)
    hnsw_ef_construction: int = _setting(100, "HNSW parameter ef_construction", ge=8, le=4096)
    hnsw_ef_search: int = _setting(96, "HNSW parameter ef_search", ge=8, le=4096)
    write_buffer_rows: int = _setting(
        512,
        "new chunks that queries scan exactly before the graph absorbs them; with twice as many ingestion waits",
        "chunks",
        ge=1,
    )
    vector_storage: Literal["float16", "float32"] = _setting(
        "float16",
        "how records, shard files and rows in memory hold vectors; float16 halves them and changes no ranking that "
        "can be measured; the same for embed and index workers; another value rebuilds the shards",
    )
    keyword_stemmer: Literal[
        "none", "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian",
        "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish",
    ] = _setting("english", "language whose word endings keyword search ignores; the gateway's too")  # fmt: skip
    recall_interval_s: float = _setting(
        10.0, "how often the newest queries are answered exactly as well, to measure recall", "seconds", ge=0.1
    )
    recall_target: float = _setting(
        0.95, "measured recall@10 under which a graph that has changed is rebuilt", gt=0, le=1
    )
    rebuild_dead_ratio: float = _setting(
        0.25, "share of dead points from which on a graph is rebuilt; from 0.05 on in quiet times", gt=0, le=1
    )
    rebuild_cpu_share: float = _setting(0.5, "share of one core that a rebuild takes", "cores", gt=0, le=1)
    audit_interval_s: float = _setting(
        30.0,
        "how often a shard is compared with a random slice of its topic; 0: never",
        "seconds",
        ge=0,
    )
    memory_reserve_mb: int = _setting(
        512, "ingestion pauses and nothing is rebuilt when less memory than this would be left", "MiB", ge=0
    )

    # --- search gateway
    host: str = _setting("127.0.0.1", "address on which the gateway serves")
    port: int = _setting(8080, "port of the gateway", ge=0, le=65535)
    index_urls: Annotated[tuple[str, ...], NoDecode] = _setting(
        (), "index workers, comma-separated URLs; used beside the ones registered in Redis"
    )
    shard_timeout_ms: int = _setting(1000, "a shard that has not answered by then is left out: partial", "ms", ge=1)
    max_request_bytes: int = _setting(2**20, "largest body of a request", "bytes", ge=1024)
    query_cache_entries: int = _setting(10_000, "query vectors kept in memory", "queries", ge=0)
    lag_interval_s: float = _setting(
        3.0, "how often the gateway asks Kafka how far the workers are behind; 0: never", "seconds", ge=0
    )

    # --- freshness and traces
    freshness_objective_ms: int = _setting(
        1000, "a document should be found so long after it was sent; slower ones are always traced", "ms", ge=1
    )
    freshness_objective_ratio: float = _setting(
        0.99, "share of the documents that must keep the freshness objective", ge=0.5, lt=1
    )
    probe_one_in: int = _setting(
        100,
        "one document in this many, and each slow one, is searched for once visible; 0: none",
        "documents",
        ge=0,
    )
    probe_per_s: int = _setting(
        10, "most documents a second that an index worker searches for; 0: no limit", "documents", ge=0
    )
    watermark_interval_ms: int = _setting(
        1000, "how often an idle embed worker tells the shards that they are up to date", "ms", ge=50
    )
    otlp_endpoint: str | None = _setting(None, "OTLP/HTTP endpoint for traces, e.g. http://localhost:4318; empty: none")
    otlp_metrics: bool = _setting(False, "send metrics to the OTLP endpoint as well; /metrics has them either way")
    otlp_metrics_interval_s: float = _setting(15.0, "how often they are sent", "seconds", ge=0.1)
    trace_one_in: int = _setting(100, "one document in this many is traced, by trace-id hash", "documents", ge=1)
    trace_slow_per_s: int = _setting(
        20, "most documents a second that an index worker traces for being slow; 0: every one", "documents", ge=0
    )
    trace_document_ids: Literal["plain", "hashed"] = _setting("plain", "how traces name documents")

    # --- logs
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "least level that is logged")
    log_format: Literal["text", "json"] = _setting("text", "form of the log lines on stderr")

    @field_validator("index_urls", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value

    @field_validator(
        *("redis_url", "otlp_endpoint", "index_url", "embedded_broker_id", "kafka_sasl_username"),
        *("embeddings_url", "embeddings_api_key", "embeddings_dimensions", "embeddings_tokenizer", "model_cache_dir"),
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: str | None) -> str | None:
        try:
            right = value is None or (
                value.startswith(("redis://", "rediss://", "unix://")) and urlsplit(value).port != 0
            )
        except ValueError:  # the port is no number
            right = False
        if not right:
            raise ValueError("must be redis://host:port/0, rediss://…, unix://path, or empty to run without Redis")
        return value

    @field_validator("embeddings_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith(("http://", "https://")) and urlsplit(value).hostname):
            raise ValueError("must be a URL such as https://api.openai.com/v1 or http://localhost:8000/v1")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                "HEADRACE_KAFKA_SECURITY_PROTOCOL asks for SASL: set HEADRACE_KAFKA_SASL_USERNAME and "
                "HEADRACE_KAFKA_SASL_PASSWORD"
            )
        if self.runtime == "http" and not self.embeddings_url:
            raise ValueError("HEADRACE_RUNTIME=http needs HEADRACE_EMBEDDINGS_URL, e.g. https://api.openai.com/v1")
        if self.otlp_metrics and not self.otlp_endpoint:
            raise ValueError("HEADRACE_OTLP_METRICS needs HEADRACE_OTLP_ENDPOINT, e.g. http://localhost:4318")
        if self.max_text_bytes * 2 > self.max_record_bytes:
            raise ValueError(
                "HEADRACE_MAX_RECORD_BYTES must be at least twice HEADRACE_MAX_TEXT_BYTES: a record carries text and "
                "vectors"
            )
        return self

    @property
    def changes_topic(self) -> str:
        """The input."""
        return f"{self.collection}.changes"

    @property
    def vectors_topic(self) -> str:
        """The log of embedded documents."""
        return f"{self.collection}.vectors"

    @property
    def dlq_topic(self) -> str:
        """Dead letters."""
        return f"{self.collection}.dlq"

    @property
    def embed_group(self) -> str:
        """Consumer group of the embed workers."""
        return f"{self.collection}-embed"

    @property
    def index_group(self) -> str:
        """Consumer group of this replica of the index."""
        return f"{self.collection}-index-{self.replica}"


class SettingRow(BaseModel):
    """One line of `headrace settings`."""

    name: str
    environment: str
    value: str
    source: str
    unit: str
    meaning: str


def load_settings(**flags: Any) -> Settings:
    """Settings from flags (None means: not given), environment, `.env` and defaults.

    Raises SettingsError that names the setting, where it came from, and what is accepted.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            name = str(item["loc"][0]) if item["loc"] else ""
            label = f"{PREFIX}{name.upper()} ({_source(name, given)})" if name else "settings"
            lines.append(f"{label}: {item['msg'].removeprefix('Value error, ')}")
        raise SettingsError("; ".join(lines)) from error


def setting_rows(settings: Settings, flags: dict[str, Any]) -> list[SettingRow]:
    """Every setting with its value (secrets masked), where the value comes from, unit and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        rows.append(
            SettingRow(
                name=name,
                environment=PREFIX + name.upper(),
                value=_shown(getattr(settings, name)),
                source=_source(name, flags),
                unit=str(extra.get("unit", "")) if isinstance(extra, dict) else "",
                meaning=field.description or "",
            )
        )
    return rows


def _shown(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, _, rest = value.partition("://")
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    return str(value)


def _source(name: str, flags: dict[str, Any]) -> str:
    variable = (PREFIX + name).upper()
    if flags.get(name) is not None:
        return "flag"
    if any(key.upper() == variable for key in os.environ):
        return "environment"
    if any(key.upper() == variable for key in dotenv_values(".env")):
        return ".env"
    return "default"
