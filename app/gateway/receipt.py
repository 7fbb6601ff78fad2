"""The receipt of a document: what its newest state is, and since when every replica has it."""

from __future__ import annotations

from functools import reduce
from typing import Any

from app.gateway.directory import Directory
from app.gateway.replicas import Held, applied_offset
from app.order import DocumentOrder
from schemas.document_change import utc
from schemas.errors import NotFound, NotServing, RequestError
from schemas.receipt import MissingReplica, Receipt, ReplicaReceipt, Source

Row = dict[str, Any]


def receipt(document_id: str, held: Held, directory: Directory) -> Receipt:
    """Of what every replica says.

    Raises NotFound if none ever had such a document, NotServing if that cannot be told.
    """
    newest = {
        partition: reduce(_newer, rows)
        for partition, replicas in held.rows.items()
        if (rows := [said["row"] for copies in replicas.values() for said, _ in copies if said["row"] is not None])
    }
    if not newest:
        raise _nobody_has_it(document_id, held, directory)
    # a producer that changed its partitioner left one in each of two: what lives counts
    partition, row = max(newest.items(), key=lambda item: (not item[1]["deleted"], item[1]["event_time_ms"]))
    replicas = {replica: _replica(row, copies) for replica, copies in sorted(held.rows[partition].items())}
    missing = _missing(partition, held, directory)
    everywhere_ms = None
    if not missing and all(one.has_it for one in replicas.values()):
        said_of_all = [said for copies in held.rows[partition].values() for said, _ in copies]
        everywhere_ms = max(said["row"]["indexed_time_ms"] for said in said_of_all if said["row"] is not None)
    return Receipt(
        id=document_id,
        state="deleted" if row["deleted"] else "indexed",
        version=row["version"],
        source=Source(partition=partition, offset=row["source_offset"]),
        event_time=utc(row["event_time_ms"]),
        replicas=replicas,
        missing_replicas=missing,
        everywhere_at=None if everywhere_ms is None else utc(everywhere_ms),
        took_ms=None if everywhere_ms is None else max(0, everywhere_ms - row["event_time_ms"]),
        trace_id=row["trace_id"],
    )


def _newer(one: Row, other: Row) -> Row:
    return other if _order(other).supersedes(_order(one)) else one


def _order(row: Row) -> DocumentOrder:
    return DocumentOrder(row["version"], row["source_offset"])


def _replica(newest: Row, copies: list[tuple[dict[str, Any], str]]) -> ReplicaReceipt:
    """Of the workers that answer for a replica, the one that proves least: searches may ask any of them."""
    said, worker = min(copies, key=lambda copy: (_has_it(newest, copy[0]), applied_offset(copy[0])))
    row = said["row"]
    return ReplicaReceipt(
        state="unknown" if row is None else "deleted" if row["deleted"] else "indexed",
        has_it=_has_it(newest, said),
        source_offset=None if row is None else row["source_offset"],
        applied_offset=said["applied_offset"],
        indexed_time=None if row is None else utc(row["indexed_time_ms"]),
        as_of=None if said["as_of_ms"] is None else utc(said["as_of_ms"]),
        worker=worker,
    )


def _has_it(newest: Row, said: dict[str, Any]) -> bool:
    row = said["row"]
    if row is None:  # built anew when Kafka no longer had the tombstone, or not there yet
        return bool(newest["deleted"]) and applied_offset(said) >= newest["source_offset"]
    return (row["source_offset"], row["deleted"]) == (newest["source_offset"], newest["deleted"])


def _missing(partition: int, held: Held, directory: Directory) -> list[MissingReplica]:
    """Who does not say: workers that have the shard, also beside one that does; replicas that had it; strangers."""
    silent = [
        MissingReplica(replica=worker.replica, worker=worker.url, reason=held.silent[worker.url])
        for worker in directory.owners(partition)
        if worker.url in held.silent
    ]
    known = held.rows[partition].keys() | {one.replica for one in silent}
    gone = [
        MissingReplica(
            replica=replica, worker=url, reason=f"shard {partition} was there in the last ten minutes, and is not now"
        )
        for replica, url in directory.copies(partition).items()
        if replica not in known
    ]
    strangers = [MissingReplica(replica=None, worker=url, reason="has never answered") for url in directory.strangers()]
    return sorted(silent + gone, key=lambda one: (one.replica, one.worker)) + strangers


def _nobody_has_it(document_id: str, held: Held, directory: Directory) -> RequestError:
    unasked = sorted(set(range(directory.partitions)) - set(held.rows))
    if not unasked:
        return NotFound(
            f"no replica has ever held a document {document_id!r}; if its change was just published, wait for it "
            "(POST /wait)",
            document_id,
        )
    why = "; ".join(f"{url}: {reason}" for url, reason in sorted(held.silent.items()))
    return NotServing(f"cannot tell: nobody answers for shard {unasked[0]}" + (f" ({why})" if why else ""))
