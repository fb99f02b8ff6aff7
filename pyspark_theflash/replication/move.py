"""Rows that DDL moves: when partitions are reorganised, the new ones begin with the old ones' rows.

The binlog has none of them. At the moment of the change they become versions in the new partitions,
committed at that moment; the old partitions keep theirs, for reads from before.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.engine.api import EngineReader, VersionBatch
from pyspark_theflash.mvcc.project import ScanColumn, SourceOf, scan_column
from pyspark_theflash.mvcc.rows import stored_columns
from pyspark_theflash.mvcc.version import HANDLE, Op, column_name
from pyspark_theflash.mvcc.visibility import sort_order
from pyspark_theflash.partitioning.assign import assign_partitions
from pyspark_theflash.replication.changes import split_by_partition
from pyspark_theflash.schema.lineage import Move
from pyspark_theflash.store.manifest import Record
from pyspark_theflash.types import PhysicalTableID, TimeStamp

MOVE_KIND: Final = "move"


def move_record(move: Move) -> Record:
    """Says that a move is done."""
    return Record(MOVE_KIND, f"{move.ts:020d}-{move.table_id}", b"")


def moved_versions(engine: EngineReader, move: Move, source_of: SourceOf) -> list[VersionBatch]:
    """The rows of the old partitions, as they were right before, as versions in the new ones.

    They are held in memory, all of them.
    """
    columns = [scan_column(move.after, c, source_of) for c in stored_columns(move.after)]
    found: dict[PhysicalTableID, list[VersionBatch]] = defaultdict(list)
    for batch in _rows(engine, move, columns):
        for versions in _placed(move, batch):
            found[versions.physical_id].append(versions)
    return [_joined(physical_id, parts) for physical_id, parts in sorted(found.items())]


def _rows(engine: EngineReader, move: Move, columns: Sequence[ScanColumn]) -> list[pa.RecordBatch]:
    view, before = engine.read([]), TimeStamp(move.ts - 1)
    regions = [r for i in sorted(move.from_ids) for r in engine.plan(view, i)]
    scans = (engine.scan(region, columns, before, with_handle=True) for region in regions)
    return [batch for scan in scans for batch in scan if batch.num_rows]


def _placed(move: Move, rows: pa.RecordBatch) -> list[VersionBatch]:
    infos = stored_columns(move.after)
    columns = {c.id: rows.column(column_name(c.id)) for c in infos}
    handles = rows.column(HANDLE)
    commit_ts = np.full(rows.num_rows, move.ts, np.uint64)
    op = np.full(rows.num_rows, Op.PUT, np.uint8)
    arrays = [handles, commit_ts, commit_ts, op, *(columns[c.id] for c in infos)]
    physical = assign_partitions(move.after, columns, rows.num_rows)
    return split_by_partition(move.after, arrays, physical, sort_order(handles))


def _joined(physical_id: PhysicalTableID, parts: Sequence[VersionBatch]) -> VersionBatch:
    table = pa.Table.from_batches([part.batch for part in parts])
    order = sort_order(table.column(HANDLE).combine_chunks())
    rows = table.take(pa.array(order)).combine_chunks()
    return VersionBatch(physical_id, rows.to_batches()[0])
