"""What Hypothesis draws for the wire formats."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.document_change import MAX_EPOCH_MS, DocumentChange
from schemas.headers import KINDS, STAGES, RecordHeaders
from schemas.vector_record import VectorRecord

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=40)  # any code point but surrogates, NUL too
METADATA = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.none()
    | st.booleans()
    | INT64
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.lists(TEXT, max_size=3),
    max_size=4,
)
IDS = st.text(min_size=1, max_size=20)


def changes(**fixed: Any) -> st.SearchStrategy[DocumentChange]:
    """Valid changes of both kinds."""
    drawn: dict[str, Any] = {
        "op": st.sampled_from(["upsert", "delete"]),
        "id": IDS,
        "text": TEXT,
        "title": st.none() | TEXT,
        "metadata": METADATA,
        "version": st.none() | st.integers(0, 2**63 - 1),
        "event_time": st.none() | st.integers(0, MAX_EPOCH_MS),
    }
    return st.builds(DocumentChange, **(drawn | {name: st.just(value) for name, value in fixed.items()}))


def record_headers() -> st.SearchStrategy[RecordHeaders]:
    return st.builds(
        RecordHeaders,
        kind=st.sampled_from(KINDS),
        source_partition=st.integers(0, 9999),
        source_offset=st.integers(-1, 2**63 - 1),
        through=st.integers(-1, 2**63 - 1),
        as_of_ms=INT64,
        epoch=TEXT,
        event_time_ms=INT64,
        version=st.none() | st.integers(0, 2**63 - 1),
        stages=st.dictionaries(st.sampled_from(STAGES), INT64),
        traceparent=st.none() | TEXT,
        version_floor=st.none() | st.integers(0, 2**63 - 1),
    )


@st.composite
def vector_records(draw: st.DrawFn) -> VectorRecord:
    """Of 0 to 3 chunks; vectors of any finite numbers, since the format does not look at their length."""
    n, dim = draw(st.integers(0, 3)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    size = n * dim * np.dtype(dtype).itemsize
    drawn: NDArray[Any] = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(n, dim)
    vectors = np.where(np.isfinite(drawn), drawn, dtype(1)).astype(dtype)
    text = draw(TEXT)
    borders = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted).map(tuple)
    return VectorRecord(
        id=draw(IDS),
        text=text,
        title=draw(st.none() | TEXT),
        metadata=draw(METADATA),
        content_hash=draw(st.binary(min_size=16, max_size=16)),
        fingerprint=draw(TEXT),
        spans=tuple(draw(borders) for _ in range(n)),
        vectors=vectors,
    )
