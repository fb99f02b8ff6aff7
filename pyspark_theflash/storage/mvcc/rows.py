"""Convert decoded rows to the stored columns of versions.

A TiDB row does not contain columns that are in its key, columns added later, and NULLs of columns
without a default. Values in the key and NULLs are stored. If the column has another default or
MODIFY COLUMN is filling it, an absence mask is stored (`storage.mvcc.version`), which
`storage.mvcc.project` evaluates.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import ColumnID, TimeStamp
from pyspark_theflash.storage.mvcc.project import project, scan_column
from pyspark_theflash.storage.mvcc.version import absence, column_name
from pyspark_theflash.tidb.codec.array import joined
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedColumn, DecodedRows
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

Columns = Mapping[ColumnID, pa.Array]


def stored_columns(table: TableInfo) -> tuple[ColumnInfo, ...]:
    """Return the columns that rows contain, including those of unfinished DDL."""
    return tuple(c for c in table.columns if not c.is_virtual)


def handle_type(table: TableInfo) -> pa.DataType:
    """Return the Arrow type of the table's handles."""
    return pa.binary() if table.is_common_handle else pa.int64()


def column_specs(table: TableInfo, columns: Sequence[ColumnInfo]) -> list[ColumnSpec]:
    """Return the row decoder's specifications of the columns, named with their table."""
    return [ColumnSpec(c.id, f"{table.full_name}.{c.name}", c.type) for c in columns]


def held_columns(
    table: TableInfo,
    infos: Sequence[ColumnInfo],
    rows: DecodedRows,
    from_key: Columns,
    ts: TimeStamp,
) -> dict[ColumnID, pa.Array]:
    """Return decoded columns by id, with absence masks where some rows do not have a column.

    Args:
        infos: the decoded columns, in order; additional ones at the end are ignored.
        from_key: columns decoded from the keys, for rows that do not contain them.
        ts: a commit_ts of the rows, for errors.

    Raises:
        SchemaOutdatedError: Rows have columns that `table` does not, or a NOT NULL column is
            missing.
    """
    # Rows may have dropped columns, and virtual ones, which are computed and not stored.
    if unknown := {i for i in rows.unknown_ids if i > table.max_column_id}:
        named = ", ".join(str(i) for i in sorted(unknown))
        raise SchemaOutdatedError(f"column {named} in {table.full_name}", ts)
    columns: dict[ColumnID, pa.Array] = {}
    for info, column in zip(infos, rows.columns, strict=False):
        columns |= _held(table, column, info, from_key.get(info.id), ts)
    return columns


def _held(
    table: TableInfo,
    column: DecodedColumn,
    info: ColumnInfo,
    from_key: pa.Array | None,
    ts: TimeStamp,
) -> Columns:
    """Return the column, with its absence mask if being absent is different from NULL."""
    if column.absent is None or not column.absent.any():
        return {info.id: column.values}
    is_absent = pa.array(column.absent)
    if from_key is not None:
        return {info.id: pc.if_else(is_absent, from_key, column.values)}
    if info.origin_default is not None or info.changing_offset is not None:
        return {info.id: column.values, absence(info.id): is_absent}
    if info.type.is_not_null and info.is_public:
        what = f"value for the NOT NULL column {info.name} of {table.full_name}"
        raise SchemaOutdatedError(what, ts)
    return {info.id: column.values}


def with_defaults(
    table: TableInfo, infos: Sequence[ColumnInfo], columns: Columns, rows: int
) -> Columns:
    """Replace absent values by those that a scan returns. Raises `CodecError`."""
    if not any(absence(info.id) in columns for info in infos):
        return columns
    stored = {column_name(id): values for id, values in columns.items()}
    shown = project(stored, [scan_column(table, info) for info in infos], rows)
    return {**columns, **{i.id: values for i, values in zip(infos, shown, strict=True)}}


def aligned(parts: Sequence[Columns], rows: Sequence[int]) -> dict[ColumnID, pa.Array]:
    """Concatenate parts with the same columns; each part may have absence masks."""
    ids = dict.fromkeys(id for part in parts for id in part)
    return {
        id: joined(
            [
                part[id] if id in part else pa.repeat(pa.scalar(False), count)
                for part, count in zip(parts, rows, strict=True)
            ]
        )
        for id in ids
    }


def from_int_handle(handles: pa.Array, column: ColumnInfo) -> pa.Array:
    """Convert integer handles to values of the primary key; unsigned values have the same bits."""
    tp = arrow_type(column.type)
    if not pa.types.is_unsigned_integer(tp):
        return handles.cast(tp)
    unsigned = handles.to_numpy().view("uint64")
    fits = not len(unsigned) or unsigned.max() < 2**tp.bit_width
    return pa.array(unsigned).cast(tp) if fits else pa.array(unsigned)
