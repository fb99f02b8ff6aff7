"""Reading tables at a timestamp: the engine's rows, and over them what it does not have yet.

    1  wait_applied     the regions have come to where their leaders were when the read began
    2  open_tables      one moment of the cache: versions, locks in the way; regions without a gap
    3  resolve          what has become of the transactions that hold these locks
    4  read_rows        newest version at or below snapshot_ts of each row: cache over engine

For a row that the cache has any version of at or below the timestamp, the cache decides: it holds
what was applied last. So it does not matter whether the engine gets these versions while it is
read, as long as its view is taken *after* the cache's.

Locks
    put or delete, start_ts and min_commit_ts at or below the snapshot   in the way (`Lock.blocks`)
    in the way, its transaction committed at or below the snapshot       its row is a version
    in the way, rolled back or committed above                           as if it were not there
    in the way, undecided                                                `KeyIsLockedError`
    every other lock                                                     never hides a row
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pyspark_theflash.base.errors import CorruptionError, KeyIsLockedError, RowMissingError
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.cluster.key_range import record_range
from pyspark_theflash.cluster.lock import Lock, LockKind, decode_lock
from pyspark_theflash.cluster.write import Write, WriteKind
from pyspark_theflash.storage.engine.api import EngineReader
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.tidb.codec.bytes import decode_bytes
from pyspark_theflash.tidb.codec.key import RawKey, table_of
from pyspark_theflash.tidb.codec.number import encode_uint_desc
from pyspark_theflash.tikv.memory_versions import MemoryVersions, NewestRows
from pyspark_theflash.tikv.region_store import RegionStore
from pyspark_theflash.tikv.tables import PhysicalTables
from pyspark_theflash.tikv.versions import Versions, versions_of


class Resolved(Protocol):
    """The ends of transactions, by start_ts; `resolve.ResolvedLocks` is one."""

    @property
    def ignored(self) -> AbstractSet[TimeStamp]:
        """Rolled back, or committed above the snapshot."""

    @property
    def committed(self) -> Mapping[TimeStamp, TimeStamp]:
        """start_ts -> commit_ts, at or below the snapshot."""


Resolve = Callable[[Sequence[Lock], TimeStamp], Resolved]
"""(locks in the way, snapshot_ts) -> what has become of their transactions."""


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A lock in the way, where it is, and the row that it would put."""

    key: bytes
    lock: Lock
    row: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TableView:
    """The cache's part of a physical table for a snapshot, of one moment."""

    physical_id: PhysicalTableID
    snapshot_ts: TimeStamp
    parts: Sequence[Versions]
    """The versions in memory, of all tables."""
    held: Sequence[HeldRow]
    known: NewestRows

    @property
    def locks(self) -> list[Lock]:
        """The locks that are in the way."""
        return [each.lock for each in self.held]


def open_tables(
    store: RegionStore,
    physical_ids: Sequence[PhysicalTableID],
    snapshot_ts: TimeStamp,
    *,
    versions: dict[RegionID, int] | None = None,
) -> list[TableView]:
    """Return the cache's part of some physical tables, all of one moment.

    Args:
        versions: of which epoch's version the tables' regions were when their read indexes were
            asked for; what was split or merged since must be asked again.

    Raises:
        RegionGapError, RegionNotReadableError, RegionEpochNotMatchError: see `check_covered`.
        RowMissingError: a commit of a snapshot whose row is yet to come.
    """
    with store.mutex:
        unflushed = store.unflushed()
        held = {i: _held(store, i, snapshot_ts, versions) for i in physical_ids}
    return [
        TableView(physical_id, snapshot_ts, unflushed, held[physical_id], store.newest)
        for physical_id in physical_ids
    ]


def _held(
    store: RegionStore,
    physical_id: PhysicalTableID,
    snapshot_ts: TimeStamp,
    versions: dict[RegionID, int] | None,
) -> list[HeldRow]:
    keys, cache = record_range(physical_id), store.cache
    store.check_covered(keys, versions)
    if missing := cache.orphans_at(keys.start, keys.end, snapshot_ts):
        raise RowMissingError(physical_id, missing[0])
    found = []
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
        found.append(HeldRow(key, lock, row or b""))
    return found


def resolve_held(view: TableView, resolve: Resolve | None) -> list[Versions]:
    """The rows that locks in the way hold of transactions committed at or below the snapshot.

    Raises:
        KeyIsLockedError: it is not known of a transaction how it ended.
    """
    if not view.held:
        return []
    if resolve is None:
        raise _is_locked(view.held[0].lock)
    resolved = resolve(view.locks, view.snapshot_ts)
    rows: list[tuple[bytes, Write, bytes]] = []
    for each in view.held:
        start_ts = each.lock.start_ts
        commit_ts = resolved.committed.get(start_ts)
        if commit_ts is not None:
            kind = WriteKind.PUT if each.lock.kind is LockKind.PUT else WriteKind.DELETE
            write_key = each.key + encode_uint_desc(commit_ts)
            rows.append((write_key, Write(kind, start_ts), each.row))
        elif start_ts not in resolved.ignored:
            raise _is_locked(each.lock)
    return versions_of(rows)


def _is_locked(lock: Lock) -> KeyIsLockedError:
    return KeyIsLockedError(lock.start_ts, table_of(lock.key), "has not ended")


def read_rows(
    view: TableView,
    engine: EngineReader,
    stored: View,
    tables: PhysicalTables,
    columns: Sequence[ScanColumn],
    *,
    resolve: Resolve | None = None,
    with_handle: bool = False,
) -> Iterator[pa.RecordBatch]:
    """The rows of a physical table at the view's timestamp, in bounded batches, in no order.

    Columns are as `EngineReader.scan` gives them. `stored` is the engine's view, taken after the
    cache's. The history of `tables` must reach the timestamp.

    Raises:
        KeyIsLockedError: a lock is in the way, and nobody can tell what has become of it.
        SchemaOutdatedError: the schema history lacks what a row needs.
        CorruptionError: stored data fails its checksum.
    """
    memory = newest_rows(view, tables, resolve)
    if memory is not None:
        yield from memory.batches(columns, with_handle=with_handle)
    without = None if memory is None else memory.handles
    for region in engine.plan(stored, view.physical_id):
        yield from engine.scan(
            region, columns, view.snapshot_ts, with_handle=with_handle, without=without
        )


def newest_rows(
    view: TableView, tables: PhysicalTables, resolve: Resolve | None = None
) -> MemoryVersions | None:
    """The newest version at the view's timestamp of each row that the cache has one of.

    Locks that are in the way included; None if there are none.

    Raises:
        KeyIsLockedError: a lock is in the way, and nobody can tell what has become of it.
    """
    resolved = resolve_held(view, resolve)
    if not tables.has(view.physical_id):
        return None
    return view.known.at(view.physical_id, view.parts, resolved, view.snapshot_ts, tables)
