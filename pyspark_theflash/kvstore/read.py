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
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.codec.bytes import decode_bytes
from pyspark_theflash.codec.key import RawKey, table_of
from pyspark_theflash.codec.number import encode_uint_desc
from pyspark_theflash.codec.reader import Positions
from pyspark_theflash.engine.api import EngineReader
from pyspark_theflash.errors import CorruptionError, KeyIsLockedError, RowMissingError
from pyspark_theflash.kvstore.key_range import record_range
from pyspark_theflash.kvstore.lock import Lock, LockKind, decode_lock
from pyspark_theflash.kvstore.rows import decode_versions, newest
from pyspark_theflash.kvstore.store import RegionStore
from pyspark_theflash.kvstore.tables import Tables
from pyspark_theflash.kvstore.versions import Versions, versions_of
from pyspark_theflash.kvstore.write import Write, WriteKind
from pyspark_theflash.mvcc.project import ScanColumn, batch_of, project, stored_names
from pyspark_theflash.mvcc.version import HANDLE, Op, column_name
from pyspark_theflash.store.manifest import View
from pyspark_theflash.types import PhysicalTableID, RegionID, TimeStamp

_BATCH_ROWS: Final = 1 << 16


class Resolved(Protocol):
    """What has become of transactions, by start_ts; `resolve.ResolvedLocks` is one."""

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
    """What the cache has of a physical table for a snapshot, of one moment."""

    physical_id: PhysicalTableID
    snapshot_ts: TimeStamp
    versions: Sequence[Versions]
    held: Sequence[HeldRow]

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
    """What the cache has of some physical tables, all of one moment.

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
        TableView(physical_id, snapshot_ts, _of_table(unflushed, physical_id), held[physical_id])
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


def _of_table(parts: Sequence[Versions], physical_id: PhysicalTableID) -> list[Versions]:
    found = []
    for part in parts:
        rows = np.flatnonzero(part.table_id == physical_id)
        if len(rows):
            found.append(part if len(rows) == len(part) else part.select(rows))
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
    tables: Tables,
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
    cached = newest_versions(view, tables, resolve)
    names = _names(columns, with_handle=with_handle)
    if cached is not None:
        yield from cached_rows(view.physical_id, cached, tables, columns, with_handle=with_handle)
    for region in engine.plan(stored, view.physical_id):
        for batch in engine.scan(
            region, columns, view.snapshot_ts, with_handle=with_handle or cached is not None
        ):
            kept = batch_of(names, [batch.column(name) for name in names], batch.num_rows)
            if cached is not None:
                known = pc.is_in(batch.column(HANDLE), value_set=cached.handles)
                kept = kept.filter(pc.invert(known))
            if kept.num_rows:
                yield kept


def newest_versions(
    view: TableView, tables: Tables, resolve: Resolve | None = None
) -> Versions | None:
    """The newest version at the view's timestamp of each row that the cache has one of.

    Sorted by handle; deletes too, locks that are in the way included; None if there are none.

    Raises:
        KeyIsLockedError: a lock is in the way, and nobody can tell what has become of it.
    """
    parts = [*view.versions, *resolve_held(view, resolve)]
    if not parts or not tables.has(view.physical_id):
        return None
    found = newest(parts, view.snapshot_ts)
    return found if len(found) else None


def cached_rows(
    physical_id: PhysicalTableID,
    versions: Versions,
    tables: Tables,
    columns: Sequence[ScanColumn],
    *,
    with_handle: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Those of such versions that are rows, in bounded batches; columns are as in `read_rows`.

    Raises:
        SchemaOutdatedError: the schema history lacks what a row needs.
    """
    names, wanted = _names(columns, with_handle=with_handle), stored_names(columns)
    puts = _some(versions, np.flatnonzero(versions.op == Op.PUT))
    for definition, all_places in tables.definitions(physical_id, puts.commit_ts):
        for start in range(0, len(all_places), _BATCH_ROWS):
            chosen = _some(puts, all_places[start : start + _BATCH_ROWS])
            batch = decode_versions(physical_id, chosen, definition, wanted)
            stored = dict(zip(batch.schema.names, batch.columns, strict=True))
            arrays = project(stored, columns, batch.num_rows)
            if with_handle:
                arrays.insert(0, batch.column(HANDLE))
            yield batch_of(names, arrays, batch.num_rows)


def _names(columns: Sequence[ScanColumn], *, with_handle: bool) -> list[str]:
    return [*[HANDLE] * with_handle, *(column_name(column.id) for column in columns)]


def _some(versions: Versions, places: Positions) -> Versions:
    """Some versions in their order, which mostly are all."""
    return versions if len(places) == len(versions) else versions.select(places)
