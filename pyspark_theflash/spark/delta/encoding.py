"""Columns of a Delta table of versions.

    _physical   bigint    physical table id; a partition column
    _plain      boolean   whether the version certainly supersedes no other; a partition column
    _handle     bigint, or _common binary, whichever the table has
    _commit_ts, _start_ts bigint, _op tinyint    as in `storage.mvcc.version`
    _shape      int       number of the set of columns that the row was decoded with
    c5_i64      the column with TiDB's id 5, stored as `i64`
    a5          absence mask of column 5; null is false
    j5          text of column 5, which is JSON, for readers

A stored column's name has its type, so a column whose type changes becomes a second one, and Delta
never has to widen types. Types that Delta does not have are stored in others:

    u8 u16 u32    smallint, int, bigint        u64    bigint with the same bits
    dur           bigint, microseconds         w50_2  string: a decimal of more than 38 digits
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import (
    BinaryType,
    BooleanType,
    ByteType,
    DataType,
    IntegerType,
    LongType,
    StructField,
    StructType,
)

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    START_TS,
    absence,
    column_id,
    column_name,
)
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.model import TableInfo

PHYSICAL: Final = "_physical"
PLAIN: Final = "_plain"
COMMON: Final = "_common"
SHAPE: Final = "_shape"
PARTITIONED_BY: Final = (PHYSICAL, PLAIN)
SYSTEM: Final = StructType(
    [
        StructField(PHYSICAL, LongType()),
        StructField(PLAIN, BooleanType()),
        StructField(HANDLE, LongType()),
        StructField(COMMON, BinaryType()),
        StructField(COMMIT_TS, LongType()),
        StructField(START_TS, LongType()),
        StructField(OP, ByteType()),
        StructField(SHAPE, IntegerType()),
    ]
)
_JSON: Final = FieldType(MySQLType.JSON)
_FIXED: Final[Mapping[str, tuple[pa.DataType, pa.DataType]]] = {
    "i8": (pa.int8(), pa.int8()),
    "i16": (pa.int16(), pa.int16()),
    "i32": (pa.int32(), pa.int32()),
    "i64": (pa.int64(), pa.int64()),
    "u8": (pa.uint8(), pa.int16()),
    "u16": (pa.uint16(), pa.int32()),
    "u32": (pa.uint32(), pa.int64()),
    "u64": (pa.uint64(), pa.int64()),
    "f32": (pa.float32(), pa.float32()),
    "f64": (pa.float64(), pa.float64()),
    "date": (pa.date32(), pa.date32()),
    "dt": (pa.timestamp("us"), pa.timestamp("us")),
    "ts": (pa.timestamp("us", tz="UTC"), pa.timestamp("us", tz="UTC")),
    "dur": (pa.duration("us"), pa.int64()),
    "str": (pa.string(), pa.string()),
    "bin": (pa.binary(), pa.binary()),
    "vec": (pa.list_(pa.float32()), pa.list_(pa.float32())),
}
"""Name -> Arrow type of the column, and of the form in which it is stored."""
_NAMES: Final = {tp: name for name, (tp, _) in _FIXED.items()}
_DECIMAL: Final = re.compile(r"[dw](\d+)_(\d+)")


def type_name(tp: pa.DataType) -> str:
    """Return the name of an Arrow type in names of stored columns."""
    if pa.types.is_decimal(tp):
        kind = "d" if tp.precision <= DECIMAL128_DIGITS else "w"
        return f"{kind}{tp.precision}_{tp.scale}"
    return _NAMES[tp]


def types_of(name: str) -> tuple[pa.DataType, pa.DataType]:
    """Return the Arrow type of a name, and of its stored form. Raises `CorruptionError`."""
    if name in _FIXED:
        return _FIXED[name]
    if (match := _DECIMAL.fullmatch(name)) is None:
        raise CorruptionError(f"column type {name}", 0, "is not one that delta stores")
    precision, scale = map(int, match.groups())
    if name.startswith("d"):
        return (pa.decimal128(precision, scale),) * 2
    return pa.decimal256(precision, scale), pa.string()


def stored_name(id: ColumnID, tp: pa.DataType) -> str:
    """Return the name of a column, not a mask, in a Delta table."""
    return f"{column_name(id)}_{type_name(tp)}"


def json_name(id: ColumnID) -> str:
    """Return the name of the column with the text of a JSON column."""
    return f"j{id}"


def spark_type_of(stored: pa.DataType) -> DataType:
    """Return the Spark type of a stored form."""
    return from_arrow_type(stored, prefer_timestamp_ntz=True)


def encode(values: pa.Array) -> pa.Array:
    """Convert a column to its stored form."""
    stored = types_of(type_name(values.type))[1]
    if stored == values.type:
        return values
    if pa.types.is_uint64(values.type) or pa.types.is_duration(values.type):
        return values.view(stored)
    return pc.cast(values, stored)


def decode(values: pa.Array, name: str) -> pa.Array:
    """Convert a stored form, as Spark returns it, to the column's type. Inverse of `encode`."""
    tp, stored = types_of(name)
    values = pc.cast(values, stored)
    if stored == tp:
        return values
    if pa.types.is_uint64(tp) or pa.types.is_duration(tp):
        return values.view(tp)
    return pc.cast(values, tp)


def json_ids(table: TableInfo | None) -> frozenset[ColumnID]:
    """Return the ids of a table's JSON columns."""
    columns = () if table is None else table.columns
    return frozenset(c.id for c in columns if c.type.tp == MySQLType.JSON)


def stored_fields(
    columns: Iterable[tuple[ColumnID, pa.DataType]], json: frozenset[ColumnID]
) -> list[StructField]:
    """Return the fields of a Delta table for the columns and masks of a batch of versions."""
    fields = []
    for id, tp in columns:
        if id < 0:
            fields.append(StructField(column_name(id), BooleanType()))
            continue
        fields.append(StructField(stored_name(id, tp), spark_type_of(types_of(type_name(tp))[1])))
        if id in json:
            fields.append(StructField(json_name(id), spark_type_of(pa.string())))
    return fields


def batch_columns(schema: pa.Schema) -> list[tuple[ColumnID, pa.DataType]]:
    """Return id and type of the columns and masks of a batch of versions."""
    return [(column_id(f.name), f.type) for f in schema if not f.name.startswith("_")]


def to_delta(
    physical_id: PhysicalTableID,
    batch: pa.RecordBatch,
    schema: StructType,
    shape: int,
    plain: pa.Array,
) -> pa.RecordBatch:
    """Convert a batch of versions to rows of a Delta table with these fields.

    Fields that the batch does not have are null.
    """
    rows = batch.num_rows
    stored = dict(zip(batch.schema.names, batch.columns, strict=True))
    handles = stored[HANDLE]
    columns = {
        PHYSICAL: pa.repeat(pa.scalar(physical_id, pa.int64()), rows),
        PLAIN: plain,
        COMMON if pa.types.is_binary(handles.type) else HANDLE: handles,
        COMMIT_TS: stored[COMMIT_TS].view(pa.int64()),
        START_TS: stored[START_TS].view(pa.int64()),
        OP: stored[OP].cast(pa.int8()),
        SHAPE: pa.repeat(pa.scalar(shape, pa.int32()), rows),
    }
    names = set(schema.names)
    for id, tp in batch_columns(batch.schema):
        values = stored[column_name(id)]
        columns[column_name(id) if id < 0 else stored_name(id, tp)] = (
            values if id < 0 else encode(values)
        )
        if json_name(id) in names:
            columns[json_name(id)] = format_column(values, _JSON)
    arrays, fields = [], []
    for field in schema.fields:
        tp = arrow_of(field.dataType)
        arrays.append(columns.pop(field.name) if field.name in columns else pa.nulls(rows, tp))
        fields.append(pa.field(field.name, tp))
    if columns:
        raise CorruptionError(f"rows of physical table {physical_id}", 0, f"have {sorted(columns)}")
    return pa.RecordBatch.from_arrays(
        [pc.cast(a, f.type) for a, f in zip(arrays, fields, strict=True)], schema=pa.schema(fields)
    )


def arrow_of(data_type: DataType) -> pa.DataType:
    """Return the Arrow type in which Spark passes a field."""
    from pyspark.sql.pandas.types import to_arrow_type

    return to_arrow_type(data_type, timezone="UTC")


def variants(names: Sequence[str], id: ColumnID) -> dict[str, str]:
    """Return the stored columns with an id among a Delta table's columns: type name -> column."""
    prefix = f"{column_name(id)}_"
    return {n.removeprefix(prefix): n for n in names if n.startswith(prefix)}


def mask_name(id: ColumnID) -> str:
    """Return the name of a column's absence mask."""
    return column_name(absence(id))
