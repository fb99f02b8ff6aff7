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
from pyspark_theflash.mvcc.project import ScanColumn, kept_columns
from pyspark_theflash.mvcc.version import HANDLE, Op, column_id
from pyspark_theflash.mvcc.visibility import sort_order
from pyspark_theflash.replication.changes import physical_ids, split_by_partition
from pyspark_theflash.schema.lineage import Move
from pyspark_theflash.store.gap import GAP_KIND, Gap, gaps_of
from pyspark_theflash.store.manifest import Record
from pyspark_theflash.types import PhysicalTableID, RegionID, TimeStamp

MOVE_KIND: Final = "move"


def move_record(move: Move) -> Record:
    """Says that a move is done."""
    return Record(MOVE_KIND, f"{move.ts:020d}-{move.table_id}", b"")


def moved_versions(
    engine: EngineReader, move: Move, columns: Sequence[ScanColumn]
) -> list[VersionBatch]:
    """The rows of the old partitions, as they were right before, as versions in the new ones.

    They are held in memory, all of them. `columns` are all that these rows have ever had.
    """
    kept = [each for c in columns for each in kept_columns(c.id, c.type)]
    found: dict[PhysicalTableID, list[VersionBatch]] = defaultdict(list)
    for batch in _rows(engine, move, kept):
        for versions in _placed(move, batch):
            found[versions.physical_id].append(versions)
    return [_joined(physical_id, parts) for physical_id, parts in sorted(found.items())]


def moved_gaps(engine: EngineReader, move: Move) -> list[Record]:
    """Where rows of the old partitions were purged: which of the new ones lack them is not known.

    So all of the new ones do, as a whole.
    """
    view = engine.read([GAP_KIND])
    if not any(gaps_of(view, physical_id) for physical_id in move.from_ids):
        return []
    return [Gap(i, RegionID(0), None, None).to_record() for i in sorted(move.to_ids)]


def _rows(engine: EngineReader, move: Move, columns: Sequence[ScanColumn]) -> list[pa.RecordBatch]:
    view, before = engine.read([]), TimeStamp(move.ts - 1)
    regions = [r for i in sorted(move.from_ids) for r in engine.plan(view, i)]
    scans = (engine.scan(region, columns, before, with_handle=True) for region in regions)
    return [batch for scan in scans for batch in scan if batch.num_rows]


def _placed(move: Move, rows: pa.RecordBatch) -> list[VersionBatch]:
    handles, names = rows.column(HANDLE), rows.schema.names[1:]
    columns = dict(zip(map(column_id, names), rows.columns[1:], strict=True))
    commit_ts = np.full(rows.num_rows, move.ts, np.uint64)
    op = np.full(rows.num_rows, Op.PUT, np.uint8)
    system = [handles, commit_ts, commit_ts, op]
    physical = physical_ids(move.after, columns, rows.num_rows)
    return split_by_partition(move.after, system, columns, physical, sort_order(handles))


def _joined(physical_id: PhysicalTableID, parts: Sequence[VersionBatch]) -> VersionBatch:
    tables = [pa.Table.from_batches([part.batch]) for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    order = sort_order(table.column(HANDLE).combine_chunks())
    rows = table.take(pa.array(order)).combine_chunks()
    return VersionBatch(physical_id, rows.to_batches()[0])
