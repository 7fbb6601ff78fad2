"""What a server with OpenAI's embeddings API answers: vectors, or a failure and what may be done about it."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Kind = Literal["refused", "later", "forbidden", "absent", "odd"]

_KINDS: dict[int, Kind] = {
    **dict.fromkeys((400, 413, 415, 422), "refused"),
    **dict.fromkeys((408, 409, 424, 425, 429), "later"),  # 424: text-embeddings-inference, when its model fails
    **dict.fromkeys((401, 403, 407), "forbidden"),
    **dict.fromkeys((404, 405, 410), "absent"),
}
_PERHAPS_THE_TEXT = (424, 500)  # servers that fail on a text (too long, no finite vector) give these
_MESSAGE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there are no vectors.

    kind: refused (the texts may be the reason), later (the same may succeed soon), forbidden (the key), absent (no
    such path or model), odd (no answer of this API). reason: one line for people, without secrets. status: of HTTP, 0
    where there was none. after_s: how long the server asks to wait.
    """

    kind: Kind
    reason: str
    status: int = 0
    after_s: float | None = None

    @property
    def perhaps_the_texts(self) -> bool:
        """Whether one of the texts may be what the server fails on."""
        return self.kind == "refused" or self.status in _PERHAPS_THE_TEXT


def read_rows(body: bytes, count: int) -> Rows | Failure:
    """The vectors of an answer with status 200, shape (count, dim), in the order of the texts, scaled to length 1."""
    try:
        rows = _rows(_parsed(body), count).astype(np.float64)  # squares of large numbers overflow in float32
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Failure("odd", f"its answer is not what the embeddings API gives ({_short(str(error), 80)})", 200)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        return Failure("refused", "it gives a vector that is not finite or has no direction", 200)
    unit: Rows = (rows / norms).astype(np.float32)
    return unit


def read_failure(
    status: int, headers: Mapping[str, str], body: bytes, now_s: float, clean: Callable[[str], str]
) -> Failure:
    """What an answer with another status than 200 means. now_s: seconds since the epoch. clean: removes secrets."""
    kind = _KINDS.get(status, "later" if status >= 500 else "odd")
    said = "" if kind == "forbidden" else _short(clean(_message(body)))  # a server that refuses a key may quote it
    reason = f"status {status}{': ' if said else ''}{said}"
    if 300 <= status < 400:
        target = _short(clean(headers.get("Location", "").partition("?")[0]))
        reason = f"status {status}, a redirect to {target}, which is not followed: the key is for nobody else"
    return Failure(kind, reason, status, retry_after_s(headers, now_s) if kind == "later" else None)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """How long the server asks to wait: retry-after-ms (OpenAI), else Retry-After as seconds or as a date (RFC 9110).

    now_s: seconds since the epoch. None where it does not say, or not in a form that is understood.
    """
    for name, seconds in (("retry-after-ms", 1e-3), ("Retry-After", 1.0)):
        try:
            wait_s = float(headers.get(name, "")) * seconds
        except ValueError:
            continue
        if math.isfinite(wait_s):
            return max(0.0, wait_s)
    try:
        date = parsedate_to_datetime(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_s)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)  # takes the NaN that is no JSON: that a vector is not finite is known text by text


def _rows(answer: Any, count: int) -> Rows:
    items = answer["data"]
    by_index = {int(item.get("index", 0)): item["embedding"] for item in items}  # some servers leave out a 0
    if len(items) != count or set(by_index) != set(range(count)):
        raise ValueError(f"{len(items)} vectors for {count} texts, or wrong indices")
    rows = [_row(by_index[index]) for index in range(count)]
    if len({row.shape for row in rows}) != 1 or rows[0].ndim != 1 or not rows[0].size:
        raise ValueError("vectors of different lengths, or empty ones")
    return np.stack(rows)


def _row(embedding: Any) -> Rows:
    if isinstance(embedding, str):
        return np.frombuffer(b64decode(embedding, validate=True), "<f4").astype(np.float32)
    with np.errstate(over="ignore"):
        return np.array(embedding, dtype=np.float32)  # null becomes NaN


def _message(body: bytes) -> str:
    """The sentence in an error's body: {"error": {"message"}}, {"error"}, {"message"}, {"detail"}, or all of it."""
    text = body.decode("utf-8", "replace")
    try:
        said = orjson.loads(body)
    except ValueError:
        return text
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    return said if isinstance(said, str) else text


def _short(text: str, limit: int = _MESSAGE_CHARS) -> str:
    """One line, printable, of at most `limit` code points."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
