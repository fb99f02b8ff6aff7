"""Load a base: the rows that the tables had before the binlog begins.

The rows become versions committed at the schema history's `start_ts`, the first readable timestamp.
Each table is one publication with a record of the rows loaded, so that loading the same base again
does nothing, and an interrupted load is resumed.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import (
    CodecError,
    OptionError,
    SchemaConflictError,
    SchemaFileError,
)
from pyspark_theflash.base.types import ColumnID, TimeStamp
from pyspark_theflash.replication.apply.changes import key_handles, split_by_partition
from pyspark_theflash.replication.apply.stream_state import StreamState
from pyspark_theflash.storage.engine.api import Publication, VersionBatch, WriterEngine
from pyspark_theflash.storage.mvcc.rows import Columns, stored_columns
from pyspark_theflash.storage.mvcc.version import Op, absence
from pyspark_theflash.storage.mvcc.visibility import sort_order
from pyspark_theflash.storage.store.base_load import BASE_LOAD_KIND, plan_source
from pyspark_theflash.storage.store.coverage import BASE_KIND
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.tidb.partitioning.row_partition import assign_partitions
from pyspark_theflash.tidb.schema.base import BaseTable, read_base, read_base_rows
from pyspark_theflash.tidb.schema.default import origin_value
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ROWID_NAME, TableInfo

BATCH_ROWS: Final = 1 << 16


def load_base(engine: WriterEngine, folder: Path, state: StreamState) -> int:
    """Load the tables of a base folder that are not loaded yet; return the number of rows.

    Tables that the store does not replicate are skipped.

    Raises:
        OptionError: A table is not loaded, but changes after the base have been applied.
        SchemaConflictError: Another base was loaded before.
    """
    history = state.history
    view = engine.read([BASE_KIND, BASE_LOAD_KIND, PROGRESS_KIND])
    if plan_source(view) is not None:
        raise OptionError("base", "this store began with another base; pass the same again")
    loaded = view.of_kind(BASE_KIND)
    started = Progress.of(view) is not None
    rows = 0
    for table in read_base(folder).tables:
        if not state.replicates(table.table_id):
            continue
        if (body := loaded.get(_key(table))) is not None:
            _check_same(table, body, history)
        elif started:
            raise OptionError(
                "base", f"{table.db}.{table.table} is not in the base that this store began with"
            )
        else:
            rows += _load_table(engine, table, history)
    return rows


def check_base(engine: WriterEngine) -> None:
    """Raise `OptionError` if the load of a base was interrupted."""
    view = engine.read([BASE_KIND, BASE_LOAD_KIND, PROGRESS_KIND])
    has_begun = view.of_kind(BASE_KIND) or view.of_kind(BASE_LOAD_KIND)
    if has_begun and Progress.of(view) is None:
        raise OptionError(
            "base", "an earlier load of a base was interrupted; pass the same base again"
        )


def _load_table(engine: WriterEngine, table: BaseTable, history: SchemaHistory) -> int:
    info = history.table_by_name(_key(table), history.start_ts)
    if info.id != table.table_id:
        reason = f"{_key(table)} has id {table.table_id} here, but {info.id} in the schema"
        raise SchemaFileError(str(table.file), reason)
    versions = [
        version
        for batch in read_base_rows(table, info, BATCH_ROWS)
        for version in base_versions(info, batch, history.start_ts)
    ]
    engine.publish(Publication(versions, ManifestChange([_record(table)])))
    return sum(v.batch.num_rows for v in versions)


def base_versions(
    info: TableInfo,
    rows: pa.RecordBatch,
    ts: TimeStamp,
    physical: npt.NDArray[np.int64] | None = None,
) -> Sequence[VersionBatch]:
    """Convert rows, columns by name, to versions committed at a timestamp.

    `physical` is the physical table of each row; if None, it is computed from the rows.
    """
    by_name = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns = {c.id: by_name[c.name] for c in stored_columns(info) if c.name in by_name}
    handles = by_name[ROWID_NAME] if info.has_rowid else key_handles(info, columns)
    system = [
        handles,
        np.full(rows.num_rows, ts, np.uint64),
        np.full(rows.num_rows, ts, np.uint64),
        np.full(rows.num_rows, Op.PUT, np.uint8),
    ]
    if physical is None:
        physical = assign_partitions(info, columns, rows.num_rows)
    columns |= _absences(info, columns)
    return split_by_partition(info, system, columns, physical, sort_order(handles))


def _absences(info: TableInfo, columns: Columns) -> Columns:
    """Mark the values that equal the column's origin default as absent.

    A base does not distinguish a stored value from an absent one, which reads as the origin
    default. The difference matters only after EXCHANGE PARTITION.
    """
    absences: dict[ColumnID, pa.Array] = {}
    for column in stored_columns(info):
        if column.id not in columns or column in info.handle_columns:
            continue
        values = columns[column.id]
        with suppress(CodecError):
            default = origin_value(column)
            if not default.is_valid:
                continue
            is_same = pc.equal(values, default)
            if pc.any(is_same).as_py():
                absences[absence(column.id)] = pc.fill_null(is_same, False)
    return absences


def _key(table: BaseTable) -> str:
    return f"{table.db}.{table.table}"


def _record(table: BaseTable) -> Record:
    body = {"rows": table.rows, "checksum": table.checksum}
    return Record(BASE_KIND, _key(table), json.dumps(body).encode())


def _check_same(table: BaseTable, loaded: bytes, history: SchemaHistory) -> None:
    if _record(table).body != loaded:
        raise SchemaConflictError(f"the base of {_key(table)}", history.start_ts)
