"""Validation of row versions passed by a caller.

Checks the guarantees that engines rely on (`storage.engine.api.VersionBatch`) and the table's
constraints on its rows, column by column. Errors never contain values.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, SchemaOutdatedError
from pyspark_theflash.base.types import MAX_TS, ColumnID, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.apply.changes import key_handles
from pyspark_theflash.storage.mvcc.rows import handle_type, stored_columns
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    START_TS,
    Op,
    column_name,
    is_absence,
    version_schema,
)
from pyspark_theflash.storage.mvcc.visibility import TimeStamps, same_as_next
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.partitioning.row_partition import assign_partitions
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

_SYSTEM: Final = (HANDLE, COMMIT_TS, START_TS, OP)
_COLUMN: Final = re.compile("[ac][0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class IncomingRows:
    """Unchecked versions of one physical table's rows; columns as in `storage.mvcc.version`."""

    table_id: TableID
    physical_id: PhysicalTableID
    rows: pa.Table

    @property
    def name(self) -> str:
        """Name in error messages."""
        return f"rows of physical table {self.physical_id}"


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Validated versions of rows of one physical table, in one batch."""

    table_id: TableID
    physical_id: PhysicalTableID
    batch: pa.RecordBatch

    @property
    def commit_ts(self) -> TimeStamps:
        return _numbers(self.batch, COMMIT_TS)

    @property
    def start_ts(self) -> TimeStamps:
        return _numbers(self.batch, START_TS)


def checked_rows(incoming: IncomingRows, history: SchemaHistory) -> CheckedRows:
    """Validate rows against their table's definition.

    Raises:
        CodecError: The rows are invalid.
        SchemaOutdatedError: The table is not in the history at the rows' commit_ts.
        NoPartitionError, UnsupportedError: See `assign_partitions` and `key_handles`.
    """
    check = _Check(incoming)
    batch = check.batch()
    if not batch.num_rows:
        return CheckedRows(incoming.table_id, incoming.physical_id, batch)
    check.timestamps(batch)
    table = check.table(batch, history)
    check.schema(batch, table)
    check.order(batch)
    columns = {
        c.id: batch.column(column_name(c.id))
        for c in stored_columns(table)
        if column_name(c.id) in batch.schema.names
    }
    check.deletes(batch, columns)
    check.puts(batch, columns, table)
    return CheckedRows(incoming.table_id, incoming.physical_id, batch)


def checked_versions(physical_id: PhysicalTableID, rows: pa.Table) -> pa.RecordBatch:
    """Validate rows of a stream that another process decoded, without their table's definition.

    That process is responsible for the rows' agreement with the definition.

    Raises:
        CodecError: The rows do not meet an engine's requirements.
    """
    check = _Check(IncomingRows(TableID(physical_id), physical_id, rows))
    batch = check.batch()
    check.names(batch)
    if batch.num_rows:
        check.timestamps(batch)
        check.order(batch)
    return batch


class _Check:
    def __init__(self, incoming: IncomingRows) -> None:
        self._incoming = incoming

    def batch(self) -> pa.RecordBatch:
        """Combine the rows into one batch, and validate all buffers and the system columns."""
        rows = self._incoming.rows
        names = rows.schema.names
        if tuple(names[: len(_SYSTEM)]) != _SYSTEM:
            raise self._wrong(f"the first columns are not {', '.join(_SYSTEM)}")
        if len({*names}) < len(names):
            raise self._wrong("two columns have the same name")
        expected = version_schema(pa.int64(), [])
        for name in _SYSTEM[1:]:
            if rows.schema.field(name).type != expected.field(name).type:
                raise self._wrong(f"{name} is not of type {expected.field(name).type}")
        try:
            for batch in rows.to_batches():
                batch.validate(full=True)
            arrays = [_combined(column) for column in rows.columns]
        except (pa.ArrowException, pa.ArrowInvalid) as error:
            raise self._wrong(f"the buffers are damaged ({type(error).__name__})") from error
        for name, array in zip(_SYSTEM, arrays, strict=False):
            if array.null_count:
                raise self._wrong(f"{name} has NULLs")
        fields = [pa.field(f.name, f.type, nullable=f.name not in _SYSTEM) for f in rows.schema]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def names(self, batch: pa.RecordBatch) -> None:
        """Check the type of handles and the names of columns."""
        if batch.schema.field(HANDLE).type not in (pa.int64(), pa.binary()):
            raise self._wrong(f"{HANDLE} is neither int64 nor binary")
        for name in batch.schema.names[len(_SYSTEM) :]:
            if not _COLUMN.fullmatch(name):
                raise self._wrong("a column's name is neither c<id> nor a<id>")
            if is_absence(name) and batch.schema.field(name).type != pa.bool_():
                raise self._wrong(f"{name} is not of type bool")

    def timestamps(self, batch: pa.RecordBatch) -> None:
        start_ts, commit_ts = _numbers(batch, START_TS), _numbers(batch, COMMIT_TS)
        if (start_ts > commit_ts).any() or not start_ts.all() or (commit_ts == MAX_TS).any():
            raise self._wrong("a _start_ts is 0 or above its _commit_ts")
        order = np.argsort(start_ts, kind="stable")
        is_same = start_ts[order][1:] == start_ts[order][:-1]
        if (commit_ts[order][1:] != commit_ts[order][:-1])[is_same].any():
            raise self._wrong("one _start_ts has several _commit_ts")
        if not np.isin(_numbers(batch, OP), list(Op)).all():
            raise self._wrong(f"{OP} is none of {[int(op) for op in Op]}")

    def table(self, batch: pa.RecordBatch, history: SchemaHistory) -> TableInfo:
        """Return the table's definition, which must be the same for all of the rows."""
        table_id, commit_ts = self._incoming.table_id, _numbers(batch, COMMIT_TS)
        first, last = TimeStamp(int(commit_ts.min())), TimeStamp(int(commit_ts.max()))
        events = [e for e in history.events if e.table_id == table_id and e.ts <= last]
        if not events or events[0].ts > first:
            raise SchemaOutdatedError(f"table with id {table_id}", first)
        if changes := [e.ts for e in events if first < e.ts]:
            raise self._wrong(
                f"the table changes at {changes[0]}: write rows from before separately"
            )
        table = history.table_at_commit(table_id, min(first, history.end_ts))
        if self._incoming.physical_id not in table.physical_ids:
            raise self._wrong(f"it is not a partition of table {table_id} at {first}")
        if not table.holds_rows:
            raise self._wrong("a view or a sequence has no rows")
        return table

    def schema(self, batch: pa.RecordBatch, table: TableInfo) -> None:
        types = {column_name(c.id): arrow_type(c.type) for c in stored_columns(table)}
        names = batch.schema.names[len(_SYSTEM) :]
        if unknown := [name for name in names if name not in types]:
            raise self._wrong(f"{len(unknown)} columns are not in the table, e.g. {unknown[0]!r}")
        public = [column_name(c.id) for c in stored_columns(table) if c.is_public]
        if missing := [name for name in public if name not in names]:
            raise self._wrong(f"column {missing[0]} is missing")
        if batch.schema.field(HANDLE).type != handle_type(table):
            raise self._wrong(f"{HANDLE} is not of type {handle_type(table)}")
        for name in names:
            if batch.schema.field(name).type != types[name]:
                raise self._wrong(f"{name} is not of type {types[name]}")

    def order(self, batch: pa.RecordBatch) -> None:
        """Check that rows are sorted by (handle, commit_ts), without duplicates."""
        if batch.num_rows < 2:
            return
        handles, commit_ts = batch.column(HANDLE), _numbers(batch, COMMIT_TS)
        same = same_as_next(handles)
        below = pc.less(handles.slice(0, len(handles) - 1), handles.slice(1))
        grows = np.asarray(below.to_numpy(zero_copy_only=False), np.bool_)
        if not (grows | (same & (commit_ts[:-1] < commit_ts[1:]))).all():
            raise self._wrong(f"not sorted by {HANDLE} and {COMMIT_TS} without duplicates")

    def deletes(self, batch: pa.RecordBatch, columns: Mapping[ColumnID, pa.Array]) -> None:
        is_delete = _numbers(batch, OP) == Op.DELETE
        if not is_delete.any():
            return
        for column in columns.values():
            if (np.asarray(column.is_valid()) & is_delete).any():
                raise self._wrong("a delete has values")

    def puts(
        self, batch: pa.RecordBatch, columns: Mapping[ColumnID, pa.Array], table: TableInfo
    ) -> None:
        """Check NULLs, and that handle and partition are those of the row's values."""
        is_put = pa.array(_numbers(batch, OP) == Op.PUT)
        rows = batch.filter(is_put)
        puts = {column_id: column.filter(is_put) for column_id, column in columns.items()}
        for info in stored_columns(table):
            if info.is_public and info.type.is_not_null and puts[info.id].null_count:
                raise self._wrong(f"column {column_name(info.id)} has NULLs, but is NOT NULL")
        if not rows.num_rows:
            return
        if not table.has_rowid and not key_handles(table, puts).equals(rows.column(HANDLE)):
            raise self._wrong(f"a {HANDLE} is not that of the row's primary key")
        placed = assign_partitions(table, puts, rows.num_rows)
        if (placed != self._incoming.physical_id).any():
            raise self._wrong("a row belongs to another partition")

    def _wrong(self, reason: str) -> CodecError:
        return CodecError(self._incoming.name, reason)


def check_disjoint(rows: Sequence[CheckedRows]) -> None:
    """Raise `CodecError` if a physical table occurs twice: all of its rows must be in one batch."""
    if len({each.physical_id for each in rows}) < len(rows):
        raise CodecError("write", "two batches are of the same physical table")


def _numbers(batch: pa.RecordBatch, name: str) -> TimeStamps:
    values: TimeStamps = batch.column(name).to_numpy()
    return values


def _combined(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)
