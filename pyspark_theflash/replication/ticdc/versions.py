"""Convert rows of TiCDC's storage sink to versions of the store.

Rows name their table, not its id. TiCDC uses the definition of the last finished DDL, which is the
one with the public columns of TiDB's definition at the commit. Rows of one key and commit_ts become
one version: a row may be sent again, and an update may be sent as a delete and an insert.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import (
    CodecError,
    SchemaOutdatedError,
    TransactionConflictError,
    UnsupportedError,
)
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.apply.changes import key_handles, physical_ids
from pyspark_theflash.replication.ticdc.csv_rows import named_columns
from pyspark_theflash.replication.ticdc.rows import Mask, SinkFormat, SinkRows, TimeStamps
from pyspark_theflash.replication.ticdc.values import stored_values
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.mvcc.rows import Columns, handle_type, stored_columns
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.mvcc.visibility import same_as_next, sort_order
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

Ints = npt.NDArray[np.int64]
Placement = Callable[[TableInfo, TimeStamp], TableInfo]
"""(definition, commit_ts) -> the definition that assigns the rows to partitions."""


class TableNames:
    """Tables of a schema history by name and time. Immutable."""

    def __init__(self, history: SchemaHistory) -> None:
        self._history: Final = history
        self._owners: dict[str, list[tuple[TimeStamp, TableID | None]]] = defaultdict(list)
        names: dict[TableID, str] = {}
        for event in history.events:
            before = names.get(event.table_id)
            name = None if event.name is None else event.full_name.lower()
            if name == before:
                continue
            if before is not None and self._owners[before][-1][1] == event.table_id:
                self._owners[before].append((event.ts, None))
                del names[event.table_id]
            if name is not None:
                self._owners[name].append((event.ts, event.table_id))
                names[event.table_id] = name

    def definitions(self, rows: SinkRows) -> Iterator[tuple[TableInfo, SinkRows]]:
        """Yield the definitions of the rows' table at their commits, each with its rows, by time.

        Raises:
            SchemaOutdatedError: The history has no table of this name at a commit.
        """
        owners = self._owners.get(rows.full_name.lower(), [])
        cuts = {ts for ts, _ in owners}
        cuts |= {e.ts for _, id in owners if id is not None for e in self._history.events_of(id)}
        spans = np.searchsorted(np.array(sorted(cuts), np.uint64), rows.commit_ts, side="right")
        for span in np.unique(spans):
            part = rows.where(spans == span)
            ts = TimeStamp(int(part.commit_ts[0]))
            table_id = next((id for begin, id in reversed(owners) if begin <= ts), None)
            if table_id is None:
                raise SchemaOutdatedError(f"table {rows.full_name}", ts)
            yield self._history.table_at_commit(table_id, ts), part


@dataclass(frozen=True, slots=True)
class TableVersions:
    """Unsorted versions of one table under one definition; the columns of deletes are null."""

    table: TableInfo
    handles: pa.Array
    physical: Ints
    commit_ts: TimeStamps
    is_put: Mask
    columns: dict[ColumnID, pa.Array]


def decode_rows(
    rows: SinkRows, table: TableInfo, sink: SinkFormat, placement: Placement
) -> TableVersions:
    """Decode at least one row written under one definition of a table with a clustered key.

    Raises:
        CodecError: A row is not valid for its table.
        OptionError: A property of the sink is wrong or must be specified.
        UnsupportedError, NoPartitionError: A row's contents or partition cannot be determined.
    """
    if rows.is_csv:
        rows = named_columns(rows, table)
    is_put = ~rows.is_delete
    values = stored_values(_without_deleted_values(rows, table), table, sink)
    _check(table, values, is_put)
    return TableVersions(
        table,
        key_handles(table, values),
        _physical_ids(rows, table, values, placement),
        rows.commit_ts,
        is_put,
        {id: _of_puts(column, is_put) for id, column in values.items()},
    )


def _without_deleted_values(rows: SinkRows, table: TableInfo) -> SinkRows:
    """Replace values of deleted rows outside their keys by NULL: TiCDC may leave them out."""
    if not rows.is_delete.any():
        return rows
    keys = {column.name.lower() for column in table.handle_columns}
    pairs = zip(rows.names, rows.texts, strict=True)
    texts = [t if n.lower() in keys else _of_puts(t, ~rows.is_delete) for n, t in pairs]
    return replace(rows, texts=texts)


def _check(table: TableInfo, values: Columns, is_put: Mask) -> None:
    for column in table.handle_columns:
        if column.id not in values or values[column.id].null_count:
            reason = f"rows of {table.full_name} without their key column {column.name}"
            raise CodecError("TiCDC row", reason)
    if not is_put.any():
        return
    for column in stored_columns(table):
        if not column.is_public:
            continue
        if column.id not in values:
            what = "a changefeed that does not output all columns (column-selectors)"
            raise UnsupportedError(what, f"{table.full_name}.{column.name}")
        if column.type.is_not_null and values[column.id].filter(pa.array(is_put)).null_count:
            reason = f"NULL in {table.full_name}.{column.name}, which is NOT NULL"
            raise CodecError("TiCDC row", reason)


def _of_puts(column: pa.Array, is_put: Mask) -> pa.Array:
    if is_put.all():
        return column
    return pc.if_else(pa.array(is_put), column, pa.scalar(None, column.type))


def _physical_ids(rows: SinkRows, table: TableInfo, values: Columns, placement: Placement) -> Ints:
    count, physical_id = len(rows.commit_ts), rows.physical_id
    if physical_id is None:
        ts = TimeStamp(int(rows.commit_ts[0]))
        return physical_ids(placement(table, ts), values, count)
    if physical_id not in table.stored_id_set:
        what = f"partition {physical_id} of {table.full_name}"
        raise SchemaOutdatedError(what, int(rows.commit_ts[0]))
    return np.full(count, physical_id, np.int64)


def version_batches(parts: Sequence[TableVersions]) -> list[VersionBatch]:
    """Merge versions into sorted batches, one per physical table and definition, by time.

    Raises:
        TransactionConflictError: Two rows of one key and commit_ts differ.
    """
    groups: dict[int, list[TableVersions]] = defaultdict(list)
    for part in parts:
        # A history always returns the same object for a definition.
        groups[id(part.table)].append(part)
    ordered = sorted(groups.values(), key=lambda group: min(int(p.commit_ts.min()) for p in group))
    return [batch for group in ordered for batch in _merged(group)]


def _merged(parts: Sequence[TableVersions]) -> Iterator[VersionBatch]:
    table = parts[0].table
    ids = dict.fromkeys(id for part in parts for id in part.columns)
    columns = [pa.concat_arrays([_column(p, id) for p in parts]) for id in ids]
    handles = pa.concat_arrays([part.handles for part in parts])
    physical = np.concatenate([part.physical for part in parts])
    commit_ts = np.concatenate([part.commit_ts for part in parts])
    op = np.where(np.concatenate([part.is_put for part in parts]), Op.PUT, Op.DELETE)
    types = [(id, column.type) for id, column in zip(ids, columns, strict=True)]
    schema = version_schema(handle_type(table), types)
    system = [pa.array(commit_ts), pa.array(commit_ts), pa.array(op.astype(np.uint8))]
    whole = pa.RecordBatch.from_arrays([handles, *system, *columns], schema=schema)
    for physical_id in np.unique(physical):
        batch = whole.filter(pa.array(physical == physical_id))
        yield VersionBatch(PhysicalTableID(int(physical_id)), _sorted(batch))


def _column(part: TableVersions, id: ColumnID) -> pa.Array:
    if id in part.columns:
        return part.columns[id]
    return pa.nulls(len(part.commit_ts), arrow_type(part.table.column_by_id[id].type))


def _sorted(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Sort by (handle, commit_ts), and keep one version of each: a put rather than a delete."""
    handles, commit_ts, op = batch.column(0), batch.column(1), batch.column(3)
    rank = pc.equal(op, pa.scalar(Op.PUT, pa.uint8())).cast(pa.uint8())
    batch = batch.take(pa.array(sort_order(handles, commit_ts, rank)))
    if batch.num_rows < 2:
        return batch
    commits, ops = batch.column(1).to_numpy(), batch.column(3).to_numpy()
    is_same = same_as_next(batch.column(0)) & (commits[1:] == commits[:-1])
    if not is_same.any():
        return batch
    _check_equal(batch, np.flatnonzero(is_same & (ops[1:] == ops[:-1])))
    return batch.filter(pa.array(np.append(~is_same, True)))


def _check_equal(batch: pa.RecordBatch, places: Ints) -> None:
    """Check that the rows at some places are equal to the next ones."""
    if batch.take(pa.array(places)).equals(batch.take(pa.array(places + 1))):
        return
    commit_ts = int(batch.column(1)[int(places[0])].as_py())
    reason = "TiCDC has sent a row of it again, with other contents"
    raise TransactionConflictError(commit_ts, commit_ts, reason)
