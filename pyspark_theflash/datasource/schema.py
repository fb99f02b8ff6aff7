"""Which Spark type shows which TiDB column.

    TINYINT, SMALLINT, MEDIUMINT, INT, BIGINT    tinyint, smallint, int, int, bigint
    the same UNSIGNED                            smallint, int, int, bigint, decimal(20,0)
    YEAR                                         smallint
    FLOAT, DOUBLE                                float, double
    DECIMAL(p, s)                                decimal(p, s) to 38 digits; above, a string
    DATE                                         date
    DATETIME                                     timestamp_ntz
    TIMESTAMP                                    timestamp
    TIME                                         interval day to second
    CHAR, VARCHAR, TEXT, ENUM, SET               string
    BINARY, VARBINARY, BLOB, BIT                 binary

NOT NULL becomes nullable = false, a comment goes into the field's metadata.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
from pyspark.sql.types import (
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

from pyspark_theflash.codec.arrow import decimal_type
from pyspark_theflash.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.errors import OptionError, UnsupportedError
from pyspark_theflash.schema.model import ColumnInfo

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
    MySQLType.BIT: BinaryType(),
    MySQLType.ENUM: StringType(),
    MySQLType.SET: StringType(),
}


def spark_type(field_type: FieldType) -> DataType | None:
    """The Spark type of a TiDB type, None where there is none (JSON, VECTOR)."""
    tp = field_type.tp
    if tp in _SIGNED:
        return (_UNSIGNED if field_type.is_unsigned else _SIGNED)[tp]
    if tp in STRING_TYPES:
        return BinaryType() if field_type.is_binary_string else StringType()
    if tp == MySQLType.NEWDECIMAL:
        stored = decimal_type(field_type)
        if isinstance(stored, pa.Decimal128Type):
            return DecimalType(stored.precision, stored.scale)
        return StringType()
    return _OTHER.get(tp)


def is_shown_as_text(field_type: FieldType) -> bool:
    """Spark gets the value's text (BIT: its bytes), for want of a type that holds the value."""
    tp = field_type.tp
    is_long_decimal = tp == MySQLType.NEWDECIMAL and isinstance(spark_type(field_type), StringType)
    return is_long_decimal or tp in (MySQLType.ENUM, MySQLType.SET, MySQLType.BIT)


def spark_field(column: ColumnInfo, table: str) -> StructField:
    """A column as Spark sees it.

    Raises:
        UnsupportedError: Spark cannot see it; the option `columns` can leave it out.
    """
    where = (
        f"column {column.name} of {table} (leave it out by naming others in the option 'columns')"
    )
    if column.is_virtual:
        raise UnsupportedError("a virtual generated column", where)
    data_type = spark_type(column.type)
    if data_type is None:
        raise UnsupportedError(f"type {column.type.tp.name}", where)
    metadata = {"comment": column.comment} if column.comment else None
    return StructField(column.name, data_type, not column.type.is_not_null, metadata)


def spark_schema(columns: Sequence[ColumnInfo], table: str) -> StructType:
    """The schema of a scan of these columns.

    Raises:
        UnsupportedError: Spark cannot see one of them.
    """
    return StructType([spark_field(column, table) for column in columns])


def columns_of(
    schema: StructType, columns: Sequence[ColumnInfo], table: str
) -> tuple[ColumnInfo, ...]:
    """Those of `columns` that a user's `.schema(...)` names, in its order.

    A field may be nullable where the column is not, never the other way round.

    Raises:
        OptionError: it names another column, or another type, or nothing.
        UnsupportedError: Spark cannot see one of them.
    """
    if not schema.fields:
        raise OptionError("schema", "names no column")
    by_name = {column.name.lower(): column for column in columns}
    return tuple(_column_of(field, by_name.get(field.name.lower()), table) for field in schema)


def _column_of(field: StructField, column: ColumnInfo | None, table: str) -> ColumnInfo:
    if column is None:
        raise OptionError("schema", f"names the column {field.name!r}, which is not in {table}")
    real = spark_field(column, table)
    if field.dataType != real.dataType:
        given, known = field.dataType.simpleString(), real.dataType.simpleString()
        raise OptionError(
            "schema", f"says that {field.name!r} is {given}; in {table} it is {known}"
        )
    if real.nullable and not field.nullable:
        raise OptionError("schema", f"says that {field.name!r} is not nullable; in {table} it is")
    return column
