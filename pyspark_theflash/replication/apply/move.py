"""Copy rows to new partitions after REORGANIZE PARTITION, as TiDB does.

The binlog does not contain the copied rows. They become versions in the new partitions, with the
timestamp of the schema change as commit_ts; the old partitions keep theirs for earlier snapshots.

In a table with `_tidb_rowid`, rows written while TiDB copies are in the new partitions already (see
`double_write`): an update with the same id, an insert with another. So a row inserted meanwhile is
in the new partition once if TiDB has not copied it, and twice if it has; TiDB shows both. Only TiKV
has the answer.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnknownCopyError
from pyspark_theflash.base.types import PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.replication.apply.changes import physical_ids, split_by_partition
from pyspark_theflash.storage.engine.api import ScanSpec, VersionBatch, WriterEngine
from pyspark_theflash.storage.mvcc.project import ScanColumn, columns_to_copy, copied_columns
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, Op, column_id
from pyspark_theflash.storage.mvcc.visibility import sort_order
from pyspark_theflash.storage.store.gap import GAP_KIND, Gap, gaps_of
from pyspark_theflash.storage.store.manifest import Record
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.schema.lineage import Move

MOVE_KIND: Final = "move"
HadRow: TypeAlias = Callable[[RawKey, TimeStamp], bool | None]
"""(record key, ts) -> whether the record existed at ts; None if that is unknown."""
ColumnsOf: TypeAlias = Callable[[PhysicalTableID], Sequence[ScanColumn]]
_log = logging.getLogger(__name__)


def move_record(move: Move) -> Record:
    """Return the record of a completed move."""
    return Record(MOVE_KIND, f"{move.ts:020d}-{move.table_id}", b"")


def moved_versions(
    engine: WriterEngine,
    move: Move,
    columns_of: ColumnsOf,
    had_row: HadRow,
    *,
    may_guess: bool = False,
) -> list[VersionBatch]:
    """Return the old partitions' rows right before the move, as versions in the new ones.

    All of them are held in memory. `columns_of` returns all columns that the rows of a partition
    have ever had. Values converted by MODIFY COLUMN are stored as such, since the new partitions do
    not share the history of the old ones.

    Raises:
        UnknownCopyError: It is unknown which rows TiDB has copied, and guessing is not allowed.
        ServiceUnavailableError: TiKV does not answer.
    """
    by_partition: dict[PhysicalTableID, list[VersionBatch]] = defaultdict(list)
    for physical_id in sorted(move.from_ids):
        for batch in _rows(engine, move, physical_id, columns_of(physical_id)):
            for versions in _placed(move, batch):
                by_partition[versions.physical_id].append(versions)
    moved = [_joined(physical_id, parts) for physical_id, parts in sorted(by_partition.items())]
    if not move.after.has_rowid:
        return moved
    return _copied(engine, move, moved, had_row, may_guess=may_guess)


def _copied(
    engine: WriterEngine,
    move: Move,
    moved: Sequence[VersionBatch],
    had_row: HadRow,
    *,
    may_guess: bool,
) -> list[VersionBatch]:
    """Return the rows with a `_tidb_rowid` that TiDB copied and the new partitions do not have."""
    changed = _changed_meanwhile(engine, move)
    copied, unknown = [], 0
    for versions in moved:
        handles = versions.batch.column(HANDLE)
        is_new = pc.invert(
            pc.is_in(handles, value_set=_visible(engine, versions.physical_id, move))
        )
        is_in_doubt = pc.and_(is_new, pc.is_in(handles, value_set=changed))
        keys = (
            encode_record_key(versions.physical_id, h)
            for h in handles.filter(is_in_doubt).to_pylist()
        )
        answers = [had_row(key, move.ts) for key in keys]
        unknown += answers.count(None)
        mask = np.array(is_new)
        mask[np.flatnonzero(is_in_doubt)] = [answer is True for answer in answers]
        copied.append(VersionBatch(versions.physical_id, versions.batch.filter(pa.array(mask))))
    if unknown and not may_guess:
        raise UnknownCopyError(move.after.full_name, move.ts, unknown)
    if unknown:
        text = "guessed that REORGANIZE PARTITION of %s at %d copied none of %d rows"
        _log.warning(text, move.after.full_name, move.ts, unknown)
    return [versions for versions in copied if versions.batch.num_rows]


def _changed_meanwhile(engine: WriterEngine, move: Move) -> pa.Array:
    """Return the handles of rows changed in the old partitions while TiDB copied."""
    view = engine.read([])
    handles = [pa.array([], pa.int64())]
    for physical_id in move.from_ids:
        for batch in engine.keys(view, physical_id, None, None):
            commit_ts = batch.column(COMMIT_TS).to_numpy()
            is_meanwhile = (commit_ts > move.since) & (commit_ts < move.ts)
            handles.append(batch.column(HANDLE).filter(pa.array(is_meanwhile)))
    return pa.concat_arrays(handles)


def _visible(engine: WriterEngine, physical_id: PhysicalTableID, move: Move) -> pa.Array:
    """Return the handles of a new partition's rows right before the move."""
    before = TimeStamp(move.ts - 1)
    handles = [pa.array([], pa.int64())]
    for region in engine.plan(engine.read([]), physical_id):
        scan = engine.scan(region, ScanSpec([], before, with_handle=True))
        handles += [batch.column(HANDLE) for batch in scan]
    return pa.concat_arrays(handles)


def moved_gaps(engine: WriterEngine, move: Move) -> list[Record]:
    """Return gaps of the new partitions if rows of the old ones were purged.

    It is unknown which new partition the purged rows belong to, so each one is a gap as a whole.
    """
    view = engine.read([GAP_KIND])
    if not any(gaps_of(view, physical_id) for physical_id in move.from_ids):
        return []
    return [Gap(i, RegionID(0), None, None).to_record() for i in sorted(move.to_ids)]


def _rows(
    engine: WriterEngine,
    move: Move,
    physical_id: PhysicalTableID,
    columns: Sequence[ScanColumn],
) -> Iterator[dict[str, pa.Array]]:
    before = TimeStamp(move.ts - 1)
    stored_form = [each for c in columns for each in columns_to_copy(c.id, c.type)]
    for region in engine.plan(engine.read([]), physical_id):
        for batch in engine.scan(region, ScanSpec(stored_form, before, with_handle=True)):
            if batch.num_rows:
                stored = dict(zip(batch.schema.names, batch.columns, strict=True))
                yield {HANDLE: stored[HANDLE], **copied_columns(stored, columns, batch.num_rows)}


def _placed(move: Move, rows: Mapping[str, pa.Array]) -> list[VersionBatch]:
    handles = rows[HANDLE]
    columns = {column_id(name): values for name, values in rows.items() if name != HANDLE}
    commit_ts = np.full(len(handles), move.ts, np.uint64)
    op = np.full(len(handles), Op.PUT, np.uint8)
    system = [handles, commit_ts, commit_ts, op]
    physical = physical_ids(move.after, columns, len(handles))
    return split_by_partition(move.after, system, columns, physical, sort_order(handles))


def _joined(physical_id: PhysicalTableID, parts: Sequence[VersionBatch]) -> VersionBatch:
    tables = [pa.Table.from_batches([part.batch]) for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    order = sort_order(table.column(HANDLE).combine_chunks())
    rows = table.take(pa.array(order)).combine_chunks()
    return VersionBatch(physical_id, rows.to_batches()[0])
