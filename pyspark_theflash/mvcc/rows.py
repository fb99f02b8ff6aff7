"""From decoded rows to the columns that a version stores.

A row leaves out what is in its key, what its table got later, and NULLs without a default. What it
leaves out is filled in where it is written down, while its table's definition is at hand.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.codec.convert import convert_column
from pyspark_theflash.codec.row import ColumnSpec, DecodedColumn, DecodedRows
from pyspark_theflash.errors import SchemaOutdatedError
from pyspark_theflash.mvcc.project import SourceOf
from pyspark_theflash.schema.default import origin_value
from pyspark_theflash.schema.model import ColumnInfo, TableInfo
from pyspark_theflash.types import ColumnID, TimeStamp

Columns = Mapping[ColumnID, pa.Array]


def stored_columns(table: TableInfo) -> tuple[ColumnInfo, ...]:
    """The columns whose values a row holds, those of unfinished DDL included."""
    return tuple(c for c in table.columns if not c.is_virtual)


def handle_type(table: TableInfo) -> pa.DataType:
    """How handles of the table are stored."""
    return pa.binary() if table.is_common_handle else pa.int64()


def column_specs(table: TableInfo, columns: Sequence[ColumnInfo]) -> list[ColumnSpec]:
    """What to decode; errors name the column with its table."""
    return [ColumnSpec(c.id, f"{table.full_name}.{c.name}", c.type) for c in columns]


def filled_columns(
    table: TableInfo,
    infos: Sequence[ColumnInfo],
    rows: DecodedRows,
    from_key: Columns,
    source_of: SourceOf,
    ts: TimeStamp,
) -> dict[ColumnID, pa.Array]:
    """Decoded columns by id, with what rows leave out filled in.

    Args:
        infos: what was decoded, in that order; columns behind the decoded ones are left out.
        from_key: what rows leave out because their keys have it.
        source_of: the columns that MODIFY COLUMN is making others from.
        ts: when one of the rows was committed, for errors.

    Raises:
        SchemaOutdatedError: rows hold columns that `table` does not have, or lack ones they must
            have.
    """
    # Old rows may hold virtual columns, which are computed and not stored.
    if unknown := rows.unknown_ids - {c.id for c in table.columns}:
        named = ", ".join(str(i) for i in sorted(unknown))
        raise SchemaOutdatedError(f"column {named} in {table.full_name}", ts)
    columns: dict[ColumnID, pa.Array] = {}
    for info, column in zip(infos, rows.columns, strict=False):
        key_part = from_key.get(info.id)
        columns[info.id] = _filled(table, column, info, key_part, columns, source_of, ts)
    return columns


def _filled(
    table: TableInfo,
    column: DecodedColumn,
    info: ColumnInfo,
    from_key: pa.Array | None,
    before: Columns,
    source_of: SourceOf,
    ts: TimeStamp,
) -> pa.Array:
    """The column with what rows left out: key parts, what TiDB is to convert, defaults."""
    if column.absent is None or not column.absent.any():
        return column.values
    absent = pa.array(column.absent)
    if from_key is not None:
        return pc.if_else(absent, from_key, column.values)
    source = None if info.is_public else source_of(info.id)
    if source is not None and source.id in before:
        where = f"{table.full_name}.{info.name}"
        converted = convert_column(before[source.id], source.type, info.type, where)
        return pc.if_else(absent, converted, column.values)
    default = origin_value(info)
    if not default.is_valid and info.type.is_not_null and info.is_public:
        what = f"value for the NOT NULL column {info.name} of {table.full_name}"
        raise SchemaOutdatedError(what, ts)
    return pc.if_else(absent, default, column.values)


def from_int_handle(handles: pa.Array, column: ColumnInfo) -> pa.Array:
    """Integer handles as values of the column that they are: an unsigned one has their bits."""
    tp = arrow_type(column.type)
    return (
        pa.array(handles.to_numpy().view("uint64")) if pa.types.is_uint64(tp) else handles.cast(tp)
    )
