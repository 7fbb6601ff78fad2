"""A letter in words: for people, for scripts, and for files. What was sent to us is never sent raw to a terminal."""

from __future__ import annotations

import base64
import json  # orjson makes floats of large integers: what is wrong with a value has to be seen
from collections.abc import Iterator
from typing import Any

from app.dlq.letters import Letter
from schemas.document_change import utc

MOST_SHOWN = 4000  # characters of a value: two screens
_TEXT_SHARE = 0.9  # of printable characters, from which on bytes in UTF-8 are taken for text


def summary(letter: Letter) -> dict[str, Any]:
    """What `list --json` prints: everything but value and headers."""
    why = letter.why
    return {
        "place": letter.place,
        "time": utc(why.timestamp_ms),
        "topic": why.topic,
        "partition": why.partition,
        "offset": why.offset,
        "stage": why.stage,
        "class": why.error_class,
        "message": why.message,
        **_bytes("key", letter.event.key),
        "trace_id": letter.trace_id,
        "replays": letter.replays,
    }


def exported(letter: Letter) -> dict[str, Any]:
    """A line of `export`: bytes that are no UTF-8 are in base64, under the name with `_base64`."""
    headers = [{"name": name, **_bytes("value", value)} for name, value in letter.headers]
    return {**summary(letter), **_bytes("value", letter.event.value), "headers": headers}


def lines(letter: Letter, *, full: bool) -> Iterator[str]:
    """What `show` prints. full: the whole value, however long."""
    why = letter.why
    yield f"letter      {letter.place}, set aside {utc(why.timestamp_ms)}"
    yield f"source      {printable(why.topic)} {why.partition}:{why.offset}"
    yield f"why         {printable(why.error_class)} at stage {printable(why.stage)}: {printable(why.message)}"
    yield f"trace id    {letter.trace_id or 'none'}"
    yield f"replays     {letter.replays}"
    yield f"key         {_shown(letter.event.key, full=full)}"
    yield f"headers     {len(letter.headers) or 'none'}"
    for name, value in letter.headers:
        yield f"  {printable(name)} = {_shown(value, full=full)}"
    size = "" if letter.event.value is None else f"{len(letter.event.value):,} bytes, {_kind(letter.event.value)}"
    yield f"value       {size or 'null: a delete'}"
    if letter.event.value:
        yield _pretty(letter.event.value, full=full)


def printable(text: str) -> str:
    """Control characters as escapes: a message must not move the cursor of whoever reads it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _pretty(value: bytes, *, full: bool) -> str:
    kind = _kind(value)
    if kind == "hex":
        return _cut(value.hex(" ", 4), full=full)
    text = json.dumps(json.loads(value), indent=2, ensure_ascii=False) if kind == "JSON" else value.decode()
    return _cut("\n".join(printable(line) for line in text.split("\n")), full=full)


def _kind(value: bytes) -> str:
    try:
        json.loads(value)
        return "JSON"
    except (ValueError, RecursionError):
        pass
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "hex"
    shown = sum(c.isprintable() or c.isspace() for c in text)
    return "text" if shown >= _TEXT_SHARE * len(text) else "hex"


def _shown(value: bytes | None, *, full: bool) -> str:
    if value is None:
        return "null"
    try:
        return _cut(printable(value.decode()), full=full)
    except UnicodeDecodeError:
        return _cut(value.hex(" ", 4), full=full) + " (hex: not UTF-8)"


def _cut(text: str, *, full: bool) -> str:
    if full or len(text) <= MOST_SHOWN:
        return text
    return f"{text[:MOST_SHOWN]}\n… {len(text) - MOST_SHOWN:,} more characters: --full shows them"


def _bytes(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {name + "_base64": base64.b64encode(value).decode()}
