"""Decode a batch and keep, of several changes to one document, only the one that counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import orjson

from app.embed.events import DeadEvent, Work
from app.event import Event
from app.observe.tracing import new_traceparent, trace_id_of
from schemas.dead_letter import place_of
from schemas.document_change import DocumentChange, decode_change
from schemas.errors import InvalidChange
from schemas.headers import Stage

_INT64_DIGITS = 19


def content_hash(change: DocumentChange) -> bytes:
    """16 bytes over everything a reader can see, the version included; equal hashes mean nothing changed."""
    fields = [change.text, change.title, change.metadata, change.version]
    return hashlib.blake2b(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def coalesce(events: Iterable[Event], max_text_bytes: int) -> tuple[list[Work], list[DeadEvent]]:
    """Decode events, given in offset order per partition.

    Returns the changes that count, per partition ordered by `first_offset`, and what can never succeed. Changes
    of one document with and without a version cannot be compared with each other alone: then both are kept.
    """
    groups: dict[tuple[int, str], list[Work]] = {}
    dead: list[DeadEvent] = []
    for event in events:
        try:
            change = _decode(event, max_text_bytes)
        except InvalidChange as error:
            dead.append(DeadEvent(event, "decode", error))
            continue
        work = _work(event, change)
        kept = groups.setdefault(work.document, [])
        if not kept or not work.order.comparable(kept[-1].order):
            kept.append(work)
        elif work.order.supersedes(kept[-1].order):
            work.first_offset = kept[-1].first_offset
            kept[-1] = work
    works = [work for kept in groups.values() for work in kept]
    works.sort(key=lambda work: (work.event.partition, work.first_offset))
    return works, dead


def _work(event: Event, change: DocumentChange) -> Work:
    headers = dict(event.headers)
    traceparent = (headers.get("traceparent") or b"").decode(errors="replace")
    if trace_id_of(traceparent) is None:
        traceparent = new_traceparent()
    stages: dict[Stage, int] = {"produced": produced_ns(headers, event), "consumed": event.consumed_ns}
    place = event.offset if change.version is not None else place_of(event.headers, event.offset)
    return Work(event, change, content_hash(change), event.offset, place, traceparent, stages, change.version)


def produced_ns(headers: dict[str, bytes | None], event: Event) -> int:
    """As the producer says in a header, else with its timestamp. Both are the producer's: they may be anything."""
    said = headers.get("headrace-produced") or b""
    told_ns = int(said) if said.isdigit() and len(said) <= _INT64_DIGITS else event.timestamp_ms * 1_000_000
    return min(max(told_ns, 0), 2**63 - 1)


def _decode(event: Event, max_text_bytes: int) -> DocumentChange:
    change = decode_change(event.key, event.value)
    if change.op == "delete":
        return change  # its text does not count
    if change.text is not None and len(change.text) * 4 > max_text_bytes:
        size = len(change.text.encode())
        if size > max_text_bytes:
            raise InvalidChange(f"the text has {size} bytes, more than max_text_bytes={max_text_bytes}")
    return change
