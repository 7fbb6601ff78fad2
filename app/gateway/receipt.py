"""The receipt of a document: what its newest state is, and since when every replica has it."""

from __future__ import annotations

from functools import reduce
from typing import Any

from app.gateway.directory import Directory
from app.gateway.replicas import Held
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
        if (rows := [said["row"] for said, _ in replicas.values() if said["row"] is not None])
    }
    if not newest:
        raise _nobody_has_it(document_id, held, directory)
    # a producer that changed its partitioner left one in each of two: what lives counts
    partition, row = max(newest.items(), key=lambda item: (not item[1]["deleted"], item[1]["event_time_ms"]))
    replicas = {
        replica: _replica(row, said, worker) for replica, (said, worker) in sorted(held.rows[partition].items())
    }
    missing = _missing(partition, held, directory)
    everywhere_ms = None
    if not missing and all(one.has_it for one in replicas.values()):
        rows = [said["row"] for said, _ in held.rows[partition].values() if said["row"] is not None]
        everywhere_ms = max(one["indexed_time_ms"] for one in rows)
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


def _replica(newest: Row, said: dict[str, Any], worker: str) -> ReplicaReceipt:
    row, applied = said["row"], said["applied_offset"]
    if row is None:  # built anew when Kafka no longer had the tombstone, or not there yet
        has_it = newest["deleted"] and applied is not None and applied >= newest["source_offset"]
    else:
        has_it = (row["source_offset"], row["deleted"]) == (newest["source_offset"], newest["deleted"])
    return ReplicaReceipt(
        state="unknown" if row is None else "deleted" if row["deleted"] else "indexed",
        has_it=has_it,
        source_offset=None if row is None else row["source_offset"],
        applied_offset=applied,
        indexed_time=None if row is None else utc(row["indexed_time_ms"]),
        as_of=None if said["as_of_ms"] is None else utc(said["as_of_ms"]),
        worker=worker,
    )


def _missing(partition: int, held: Held, directory: Directory) -> list[MissingReplica]:
    silent = [
        MissingReplica(
            replica=replica,
            worker=url,
            reason=held.silent.get(url) or f"shard {partition} was there in the last ten minutes, and is not now",
        )
        for replica, url in sorted(directory.copies(partition).items())
        if replica not in held.rows[partition]
    ]
    strangers = [
        MissingReplica(replica=None, worker=url, reason=f"has never answered: {held.silent.get(url, 'not asked')}")
        for url in directory.strangers()
    ]
    return silent + strangers


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
