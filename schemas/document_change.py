"""DocumentChange: the value of the changes topic (JSON; the Kafka key is the document id)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as pydantic_model_validator

from schemas.errors import InvalidChange

SCHEMA_VERSION = 1
MAX_ID_BYTES = 1024
MAX_METADATA_FIELDS = 64
MAX_VERSION = 2**63 - 1
MAX_REASON_CHARS = 500  # a reason travels as a header of the dead letter
MAX_EPOCH_MS = 253_402_300_799_999  # the last millisecond of the year 9999, where RFC 3339 ends
_MAX_SHOWN_CHARS = 64  # of a name from the input

MetadataValue = (
    bool
    | Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
    | Annotated[float, Field(allow_inf_nan=False)]
    | Annotated[str, StringConstraints(max_length=4096)]
    | Annotated[list[Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=64)]
    | None
)
Metadata = dict[Annotated[str, StringConstraints(min_length=1, max_length=128)], MetadataValue]


def _epoch_ms(value: Any) -> Any:
    """RFC 3339 text → ms since the epoch; integers pass."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("event_time must be RFC 3339 or milliseconds since the epoch") from None
    if moment.tzinfo is None:
        raise ValueError("event_time needs a time zone, for example 2026-01-31T12:00:00Z")
    return round(moment.timestamp() * 1000)


_Milliseconds = Annotated[int, Field(ge=0, le=MAX_EPOCH_MS)]
_Rfc3339 = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
EpochMs = Annotated[_Milliseconds, BeforeValidator(_epoch_ms, json_schema_input_type=_Milliseconds | _Rfc3339)]


class DocumentChange(BaseModel):
    """One change of one document.

    An `upsert` carries the whole document; a `delete` needs only the id (other fields are ignored), and a
    null value on the topic is a delete as well. `version` is the producer's own monotonic version: where both
    sides have one it is compared before the offset. `event_time` is when the change happened at the source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1] = 1
    op: Literal["upsert", "delete"] = "upsert"
    id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_BYTES)]
    text: str | None = None
    title: Annotated[str, StringConstraints(max_length=4096)] | None = None
    metadata: Annotated[Metadata, Field(max_length=MAX_METADATA_FIELDS)] = Field(default_factory=dict)
    version: Annotated[int, Field(ge=0, le=MAX_VERSION)] | None = None
    event_time: EpochMs | None = Field(
        default=None, description="RFC 3339 or ms since the epoch; default: the Kafka timestamp"
    )

    @pydantic_model_validator(mode="after")
    def _upsert_has_text(self) -> DocumentChange:
        if self.op == "upsert" and self.text is None:
            raise ValueError("an upsert needs 'text'")
        if len(self.id.encode()) > MAX_ID_BYTES:
            raise ValueError(f"'id' is longer than {MAX_ID_BYTES} bytes in UTF-8")
        return self

    def encode(self) -> bytes:
        """The JSON that goes on the topic, without fields at their default."""
        fields: dict[str, Any] = {"op": self.op, "id": self.id}
        for name in ("text", "title", "version", "event_time"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        if self.metadata:
            fields["metadata"] = self.metadata
        return orjson.dumps(fields)

    @property
    def key(self) -> bytes:
        """The Kafka key."""
        return self.id.encode()


def explain(error: ValidationError) -> str:
    """A validation error as one sentence: the first fields that are wrong and why, in at most MAX_REASON_CHARS."""
    parts = []
    for item in error.errors(include_url=False, include_input=False)[:3]:
        where = ".".join(str(part)[:_MAX_SHOWN_CHARS] for part in item["loc"][:2])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {message}" if where else message)
    return "; ".join(parts)[:MAX_REASON_CHARS]


def parse_change(fields: dict[str, Any]) -> DocumentChange:
    """A change from already decoded JSON. Raises InvalidChange with the reason."""
    try:
        change = DocumentChange.model_validate(fields)
        change.encode()
    except ValidationError as error:
        raise InvalidChange(explain(error)) from error
    except (UnicodeEncodeError, TypeError) as error:  # half a surrogate pair, which JSON in UTF-8 cannot carry
        raise InvalidChange(f"not valid Unicode: {error}") from error
    return change


def decode_change(key: bytes | None, value: bytes | None) -> DocumentChange:
    """Decode one event of the changes topic.

    key: the document id in UTF-8, as the topic's order is an order per key. value: JSON, or None for a delete.
    Raises InvalidChange: the event can never be indexed; dead-letter it.
    """
    if key is None:
        raise InvalidChange("the event has no key; the key must be the document id")
    try:
        document_id = key.decode()
    except UnicodeDecodeError:
        raise InvalidChange("the key is not UTF-8; it must be the document id") from None
    if value is None:
        return parse_change({"op": "delete", "id": document_id})
    try:
        change = DocumentChange.model_validate_json(value)
    except ValidationError as error:
        raise InvalidChange(explain(error)) from error
    if change.id != document_id:
        raise InvalidChange(f"the key {document_id[:64]!r} is not the id {change.id[:64]!r}")
    return change


def json_schema() -> dict[str, Any]:
    """JSON Schema of the value, as exported to schemas/document_change.v1.json."""
    schema = DocumentChange.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["allOf"] = [
        {
            "if": {"properties": {"op": {"const": "upsert"}}},
            "then": {"required": ["text"], "properties": {"text": {"type": "string"}}},
        }
    ]
    return schema


def utc(epoch_ms: int) -> str:
    """Ms since the epoch → RFC 3339 in UTC, with milliseconds. What no such text can say becomes the nearest it can."""
    seconds, milliseconds = divmod(min(max(epoch_ms, 0), MAX_EPOCH_MS), 1000)  # as float it could round up to 10000
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03}Z"
