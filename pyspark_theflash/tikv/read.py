"""Read tables at a timestamp: versions in the cache take precedence over the engine's.

    1  wait_applied     wait until the regions have applied their read indexes
    2  open_tables      a consistent view of the cache: versions, blocking locks; no missing region
    3  resolve          the outcome of the transactions that hold these locks
    4  newest_rows      the newest version of each row at or below snapshot_ts

If the cache has a version of a row at or below the timestamp, it has the newest one. So it does not
matter whether these versions are published to the engine during the read, provided that the
engine's view is taken *after* the cache's.

Locks
    put or delete, start_ts and min_commit_ts at or below the snapshot   blocking (`Lock.blocks`)
    blocking, transaction committed at or below the snapshot             its row is a version
    blocking, rolled back or committed above the snapshot                ignored
    blocking, undecided                                                  `KeyIsLockedError`
    any other lock                                                       ignored
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyspark_theflash.base.errors import CorruptionError, KeyIsLockedError, RowMissingError
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.cluster.key_range import record_range
from pyspark_theflash.cluster.lock import Lock, LockKind, decode_lock
from pyspark_theflash.cluster.resolve import ResolvedLocks
from pyspark_theflash.cluster.write import Write, WriteKind
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.tidb.codec.bytes import decode_bytes
from pyspark_theflash.tidb.codec.key import RawKey, table_of
from pyspark_theflash.tidb.codec.number import encode_uint_desc
from pyspark_theflash.tikv.memory_versions import MemoryVersions, NewestRows
from pyspark_theflash.tikv.region_store import RegionStore
from pyspark_theflash.tikv.versions import versions_of

Resolve = Callable[[Sequence[Lock], TimeStamp], ResolvedLocks]
"""(blocking locks, snapshot_ts) -> the outcomes of their transactions."""


@dataclass(frozen=True, slots=True)
class LockedRow:
    """A blocking lock, its memcomparable key, and the row that it puts."""

    key: bytes
    lock: Lock
    row: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TableView:
    """A consistent view of the cache for a snapshot of a physical table."""

    physical_id: PhysicalTableID
    snapshot_ts: TimeStamp
    chunks: Sequence[Versions]
    """The versions in memory, of all tables."""
    locked: Sequence[LockedRow]
    newest: NewestRows


def open_tables(
    store: RegionStore,
    physical_ids: Sequence[PhysicalTableID],
    snapshot_ts: TimeStamp,
    *,
    versions: dict[RegionID, int] | None = None,
) -> list[TableView]:
    """Return views of physical tables in the cache, consistent with each other.

    Args:
        versions: The epoch versions of the regions when their read indexes were requested. The
            read index of a region that has been split or merged since must be requested again.

    Raises:
        RegionGapError, RegionNotReadableError, RegionEpochNotMatchError: See `check_covered`.
        RowMissingError: The row of a commit from a raft snapshot has not arrived yet.
    """
    with store.mutex:
        unflushed = store.unflushed()
        locked = {i: _locked_rows(store, i, snapshot_ts, versions) for i in physical_ids}
    return [
        TableView(physical_id, snapshot_ts, unflushed, locked[physical_id], store.newest)
        for physical_id in physical_ids
    ]


def _locked_rows(
    store: RegionStore,
    physical_id: PhysicalTableID,
    snapshot_ts: TimeStamp,
    versions: dict[RegionID, int] | None,
) -> list[LockedRow]:
    keys, cache = record_range(physical_id), store.cache
    store.check_covered(keys, versions)
    if missing := cache.orphans_at(keys.start, keys.end, snapshot_ts):
        raise RowMissingError(physical_id, missing[0])
    rows = []
    for key, value in cache.locks.within(keys.start, keys.end):
        lock = decode_lock(RawKey(decode_bytes(key)[0]), value)
        if not lock.blocks(snapshot_ts):
            continue
        row: bytes | None = b""
        if lock.kind is LockKind.PUT:
            row = lock.short_value
            if row is None:
                row = cache.defaults.get(key + encode_uint_desc(lock.start_ts))
            if row is None:
                reason = f"no row for the lock of start_ts={lock.start_ts}"
                raise CorruptionError("default column family", 0, reason)
        rows.append(LockedRow(key, lock, row or b""))
    return rows


def _committed_rows(view: TableView, resolve: Resolve) -> list[Versions]:
    """Return the rows in blocking locks whose transactions committed at or below the snapshot."""
    if not view.locked:
        return []
    resolved = resolve([each.lock for each in view.locked], view.snapshot_ts)
    rows: list[tuple[bytes, Write, bytes]] = []
    for each in view.locked:
        start_ts = each.lock.start_ts
        commit_ts = resolved.committed.get(start_ts)
        if commit_ts is not None:
            kind = WriteKind.PUT if each.lock.kind is LockKind.PUT else WriteKind.DELETE
            write_key = each.key + encode_uint_desc(commit_ts)
            rows.append((write_key, Write(kind, start_ts), each.row))
        elif start_ts not in resolved.ignored:
            raise KeyIsLockedError(start_ts, table_of(each.lock.key), "has not ended")
    return versions_of(rows)


def newest_rows(view: TableView, tables: PhysicalTables, resolve: Resolve) -> MemoryVersions | None:
    """Return the newest versions at the view's timestamp in the cache; None if there are none.

    They include the rows of blocking locks whose transactions have committed.

    Raises:
        KeyIsLockedError: The transaction of a blocking lock is undecided.
    """
    resolved = _committed_rows(view, resolve)
    if not tables.has(view.physical_id):
        return None
    return view.newest.at(view.physical_id, view.chunks, resolved, view.snapshot_ts, tables)
