"""VectorRecord: the value of the vectors topic, one whole document with its chunks (binary, versioned).

Layout, little-endian:

    0   4   magic b"HRV1" (the digit is the version)
    4   4   CRC-32 of everything after it
    8   1   dtype: 1 = float16, 2 = float32
    9   3   zero
    12  4   n, number of chunks
    16  4   dim
    20  4   length of the JSON part in bytes
    24  …   JSON: id, text, title, metadata, content_hash (hex), fingerprint, spans ([start, end) in code points)
    …   …   n × dim vectors, row by row, each of unit length
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from schemas.document_change import MAX_ID_BYTES, MAX_METADATA_FIELDS, Metadata, explain
from schemas.errors import InvalidVectorRecord

MAGIC = b"HRV1"
MAX_DIM = 16_384  # a shard makes room for so many numbers a row before the first one comes
_HEAD = struct.Struct("<4sIB3xIII")
_BODY_OFFSET = 8
_DTYPES: dict[int, type[np.floating[Any]]] = {1: np.float16, 2: np.float32}
_CODES = {np.dtype(np.float16): 1, np.dtype(np.float32): 2}
_HASH_BYTES = 16
_METADATA: TypeAdapter[Metadata] = TypeAdapter(Metadata)

Vectors = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorRecord:
    """One embedded document version.

    spans: n pairs [start, end) in code points of `text`. vectors: shape (n, dim), float16 or float32, every row
    of L2 norm 1 within 1e-3. content_hash: 16 bytes over everything a reader can see. fingerprint: what made
    the vectors. n may be 0 (a document without any text).
    """

    id: str
    text: str
    title: str | None
    metadata: dict[str, Any]
    content_hash: bytes
    fingerprint: str
    spans: tuple[tuple[int, int], ...]
    vectors: Vectors


def encode_vector_record(record: VectorRecord) -> bytes:
    """The bytes that go on the topic. Raises ValueError if spans and vectors do not fit together."""
    n, dim = record.vectors.shape
    if n != len(record.spans):
        raise ValueError(f"{n} vectors for {len(record.spans)} spans")
    fields = orjson.dumps(
        {
            "id": record.id,
            "text": record.text,
            "title": record.title,
            "metadata": record.metadata,
            "content_hash": record.content_hash.hex(),
            "fingerprint": record.fingerprint,
            "spans": record.spans,
        }
    )
    blob = np.ascontiguousarray(record.vectors).tobytes()
    head = _HEAD.pack(MAGIC, 0, _CODES[record.vectors.dtype], n, dim, len(fields))
    body = b"".join((head[_BODY_OFFSET:], fields, blob))
    return b"".join((MAGIC, struct.pack("<I", zlib.crc32(body)), body))


def decode_vector_record(value: bytes) -> VectorRecord:
    """Decode a value of the vectors topic. Raises InvalidVectorRecord; never returns a damaged record.

    The vectors are a read-only view of `value`.
    """
    if len(value) < _HEAD.size or value[:4] != MAGIC:
        raise InvalidVectorRecord(f"not a vector record of a known version: starts with {value[:4]!r}")
    _, checksum, code, n, dim, json_bytes = _HEAD.unpack_from(value)
    if zlib.crc32(memoryview(value)[_BODY_OFFSET:]) != checksum:
        raise InvalidVectorRecord("the checksum does not match: the record is damaged")
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise InvalidVectorRecord(f"unknown vector type {code}")
    if not 1 <= dim <= MAX_DIM:
        raise InvalidVectorRecord(f"the vectors have {dim} dimensions; 1 to {MAX_DIM} are possible")
    vectors_at = _HEAD.size + json_bytes
    if len(value) != vectors_at + n * dim * np.dtype(dtype).itemsize:
        raise InvalidVectorRecord("the length does not match the header")
    try:
        fields = orjson.loads(memoryview(value)[_HEAD.size : vectors_at])
        record = VectorRecord(
            id=_text(fields["id"]),
            text=_text(fields["text"]),
            title=None if fields["title"] is None else _text(fields["title"]),
            metadata=_METADATA.validate_python(fields["metadata"], strict=True),
            content_hash=bytes.fromhex(fields["content_hash"]),
            fingerprint=_text(fields["fingerprint"]),
            spans=tuple((start, end) for start, end in fields["spans"]),
            vectors=np.frombuffer(value, dtype=dtype, offset=vectors_at, count=n * dim).reshape(n, dim),
        )
    except ValidationError as error:
        raise InvalidVectorRecord(f"metadata: {explain(error)}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidVectorRecord(f"the fields do not parse: {error}") from error
    _check(record)
    return record


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text should be")
    return value


def _check(record: VectorRecord) -> None:
    """What a checksum does not say: whoever wrote the record may have made it wrong."""
    if len(record.vectors) != len(record.spans):
        raise InvalidVectorRecord(f"{len(record.vectors)} vectors for {len(record.spans)} spans")
    if not 1 <= len(record.id.encode()) <= MAX_ID_BYTES:
        raise InvalidVectorRecord(f"the id has not 1 to {MAX_ID_BYTES} bytes")
    if len(record.metadata) > MAX_METADATA_FIELDS:
        raise InvalidVectorRecord(f"metadata has more than {MAX_METADATA_FIELDS} fields")
    if len(record.content_hash) != _HASH_BYTES:
        raise InvalidVectorRecord(f"the content hash has {len(record.content_hash)} bytes instead of {_HASH_BYTES}")
    most = len(record.text)
    for start, end in record.spans:
        if type(start) is not int or type(end) is not int or not 0 <= start <= end <= most:
            raise InvalidVectorRecord(f"a span lies outside of the text, which has {most} code points")
    if not np.isfinite(record.vectors).all():
        raise InvalidVectorRecord("a vector holds what is not a finite number")
