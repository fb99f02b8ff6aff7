"""Spark types of TiDB columns.

    TINYINT, SMALLINT, MEDIUMINT, INT, BIGINT    tinyint, smallint, int, int, bigint
    the same UNSIGNED                            smallint, int, int, bigint, decimal(20,0)
    YEAR                                         smallint
    FLOAT, DOUBLE                                float, double
    DECIMAL(p, s)                                decimal(p, s) to 38 digits; above, a string
    DATE                                         date
    DATETIME                                     timestamp_ntz
    TIMESTAMP                                    timestamp
    TIME                                         interval day to second
    CHAR, VARCHAR, TEXT, ENUM, SET, JSON         string
    BINARY, VARBINARY, BLOB, BIT                 binary
    VECTOR                                       array of float

Columns that are read as text are strings, or binary for bytes. NOT NULL becomes nullable = false
(unless dates that do not exist become NULL). Comments are in the field's metadata.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    ByteType,
    DataType,
    DateType,
    DayTimeIntervalType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.read.present import NATIVE, Presentation
from pyspark_theflash.tidb.codec.arrow import decimal_type
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.schema.model import ColumnInfo

_SIGNED: Final = {
    MySQLType.TINY: ByteType(),
    MySQLType.SHORT: ShortType(),
    MySQLType.INT24: IntegerType(),
    MySQLType.LONG: IntegerType(),
    MySQLType.LONGLONG: LongType(),
}
_UNSIGNED: Final = {
    MySQLType.TINY: ShortType(),
    MySQLType.SHORT: IntegerType(),
    MySQLType.INT24: IntegerType(),
    MySQLType.LONG: LongType(),
    MySQLType.LONGLONG: DecimalType(20, 0),
}
_OTHER: Final = {
    MySQLType.YEAR: ShortType(),
    MySQLType.FLOAT: FloatType(),
    MySQLType.DOUBLE: DoubleType(),
    MySQLType.DATE: DateType(),
    MySQLType.NEWDATE: DateType(),
    MySQLType.DATETIME: TimestampNTZType(),
    MySQLType.TIMESTAMP: TimestampType(),
    MySQLType.TIME: DayTimeIntervalType(),
    MySQLType.VECTOR: ArrayType(FloatType(), containsNull=False),
}


def spark_type(field_type: FieldType, presentation: Presentation = NATIVE) -> DataType:
    """Return the Spark type of a TiDB type. Raises `UnsupportedError`."""
    tp = field_type.tp
    if tp == MySQLType.BIT or field_type.is_binary_string:
        return BinaryType()
    if presentation.is_text(field_type) or tp in STRING_TYPES:
        return StringType()
    if tp in _SIGNED:
        return (_UNSIGNED if field_type.is_unsigned else _SIGNED)[tp]
    if tp == MySQLType.NEWDECIMAL:
        stored = decimal_type(field_type)
        if isinstance(stored, pa.Decimal128Type):
            return DecimalType(stored.precision, stored.scale)
        return StringType()
    if tp not in _OTHER:
        raise UnsupportedError(f"type {tp.name}", "column")
    return _OTHER[tp]


def spark_field(column: ColumnInfo, presentation: Presentation) -> StructField:
    """Return the Spark field of a column."""
    data_type = spark_type(column.type, presentation)
    metadata = {"comment": column.comment} if column.comment else None
    return StructField(column.name, data_type, presentation.may_be_null(column.type), metadata)


def spark_schema(columns: Sequence[ColumnInfo], presentation: Presentation) -> StructType:
    """Return the Spark schema of a scan of these columns."""
    return StructType([spark_field(column, presentation) for column in columns])


def columns_of(
    schema: StructType, columns: Sequence[ColumnInfo], table: str, presentation: Presentation
) -> tuple[ColumnInfo, ...]:
    """Return the columns that a user's `.schema(...)` selects, in its order.

    A field may be nullable if the column is not, but not vice versa.

    Raises:
        OptionError: A field differs from the table in name or type, or there are no fields.
    """
    if not schema.fields:
        raise OptionError("schema", "names no column")
    by_name = {column.name.lower(): column for column in columns}
    return tuple(
        _column_of(field, by_name.get(field.name.lower()), table, presentation) for field in schema
    )


def _column_of(
    field: StructField, column: ColumnInfo | None, table: str, presentation: Presentation
) -> ColumnInfo:
    if column is None:
        raise OptionError("schema", f"names the column {field.name!r}, which is not in {table}")
    real = spark_field(column, presentation)
    if field.dataType != real.dataType:
        given, actual = field.dataType.simpleString(), real.dataType.simpleString()
        raise OptionError(
            "schema", f"says that {field.name!r} is {given}; in {table} it is {actual}"
        )
    if real.nullable and not field.nullable:
        raise OptionError("schema", f"says that {field.name!r} is not nullable; in {table} it is")
    return column
